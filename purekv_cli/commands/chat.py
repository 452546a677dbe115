"""`purekv chat`: one video after another, question after question, each with what was said before in mind."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from purekv_cli.commands.options import (
    CacheFlags,
    ClipFlags,
    MethodFlags,
    ModelFlags,
    SoundFlag,
    SubtitleFlags,
    with_flags,
)
from purekv_cli.settings import settle


def _own(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, show_default=False, show_envvar=False, rich_help_panel="Output", **more)


@dataclass(frozen=True, slots=True)
class ChatFlags:
    """What is shown; transcripts are written by /save."""

    stats: Annotated[
        bool | None, _own("--stats", help="Show memory and times of every answer on stderr.", envvar="PUREKV_STATS")
    ] = None
    no_stream: Annotated[
        bool | None,
        _own("--no-stream", help="Print an answer when it is complete.", envvar="PUREKV_NO_STREAM"),
    ] = None
    quiet: Annotated[bool | None, _own("--quiet", help="Only answers, and errors.", envvar="PUREKV_QUIET")] = None
    verbose: Annotated[
        bool | None, _own("--verbose", "-v", help="More detail, and tracebacks.", envvar="PUREKV_VERBOSE")
    ] = None
    dry_run: Annotated[bool | None, _own("--dry-run", help="Show the plan and stop before any work.")] = None


@with_flags
def chat(
    video: Annotated[
        str, typer.Argument(help="A video, a picture, a folder of pictures, or an http(s) address.", metavar="VIDEO")
    ],
    *,
    clip: ClipFlags,
    sound: SoundFlag,
    subtitles: SubtitleFlags,
    model: ModelFlags,
    method: MethodFlags,
    cache: CacheFlags,
    shown: ChatFlags,
) -> None:
    """Ask again and again: the video is read once, and what was said stays in the cache."""
    settings = settle(clip, sound, subtitles, model, method, cache, shown)
    from purekv_cli.chat.run import run

    run(video, settings)
