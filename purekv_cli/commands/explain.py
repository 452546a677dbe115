"""`purekv explain`: one video, one question, its answer, and pictures of what the cache kept for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from purekv_cli.commands.options import (
    ClipFlags,
    MethodFlags,
    ModelFlags,
    OutputFlags,
    SoundFlag,
    SubtitleFlags,
    at_least_one,
    with_flags,
)
from purekv_cli.commands.source import HELP, opened
from purekv_cli.settings import settle


@dataclass(frozen=True, slots=True)
class ExplainFlags:
    """Which layers are shown, and where the pictures go."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder to write into (NAME-explained).",
            metavar="FOLDER",
            show_default=False,
        ),
    ] = None
    layer: Annotated[
        int | None,
        typer.Option("--layer", help="Show this layer (default: all together).", metavar="N", show_default=False),
    ] = None
    overlay: Annotated[
        Path | None,
        typer.Option(
            "--overlay", help="Write the sampled frames as a shaded video.", metavar="FILE.mp4", show_default=False
        ),
    ] = None


@with_flags
def explain(
    video: Annotated[str, typer.Argument(help=HELP, metavar="VIDEO")],
    question: Annotated[str, typer.Argument(help="What to ask.", metavar="QUESTION")],
    *,
    flags: ExplainFlags,
    clip: ClipFlags,
    sound: SoundFlag,
    subtitles: SubtitleFlags,
    model: ModelFlags,
    method: MethodFlags,
    output: OutputFlags,
) -> None:
    """Answer as `ask` does, and show which parts of the video the cache kept."""
    settings = settle(clip, sound, subtitles, model, method, output)
    (question,) = at_least_one(question, None)
    from purekv_cli.explain.run import run

    with opened(video, settings) as found:
        run(found, question, flags, settings)
