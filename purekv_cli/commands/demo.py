"""`purekv demo`: a rendered clip and the embedded model show what the tool does, with nothing to download."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from purekv_cli.commands.options import MethodFlags, ModelFlags, OutputFlags, with_flags
from purekv_cli.settings import cache_path, settle

QUESTIONS = ("what happens?", "which number can be seen?", "what happens last?", "is there a purple ring in the clip?")


@with_flags
def demo(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Keep the sample clip here.", show_default=False)
    ] = None,
    clip_only: Annotated[bool, typer.Option("--clip-only", help="Write the clip and stop.")] = False,
    more: Annotated[
        list[str] | None, typer.Option("--question", "-q", help="Ask this instead; repeat it.", show_default=False)
    ] = None,
    *,
    method: MethodFlags,
    shown: OutputFlags,
) -> None:
    """Ask the embedded model about a sample clip."""
    from purekv_cli.commands.answering import answer
    from purekv_cli.demo import sample_clip
    from purekv_cli.terminal import Terminal

    settings = settle(ModelFlags(model="demo"), method, shown)
    path = output or cache_path() / "sample.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    sample_clip(path)
    terminal = Terminal(settings.output.quiet)
    terminal.note(f"sample clip: {path}")
    if clip_only:
        return
    settings = replace(settings, output=replace(settings.output, stats=True))
    answer(path, tuple(more or QUESTIONS), settings)
