"""`purekv ask`: one video, one or more questions, answers on stdout."""

from contextlib import ExitStack
from typing import Annotated

import typer

from purekv_cli.commands.options import (
    CacheFlags,
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
from purekv_cli.errors import UsageError
from purekv_cli.settings import settle


@with_flags
def ask(
    video: Annotated[str, typer.Argument(help=HELP, metavar="VIDEO")],
    question: Annotated[str | None, typer.Argument(help="What to ask.", metavar="[QUESTION]")] = None,
    more: Annotated[
        list[str] | None, typer.Option("--question", "-q", help="One more question; repeat it.", metavar="TEXT")
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(
            "--schema", help="Answer as JSON that is valid under this JSON schema, or fail.", metavar="FILE|JSON"
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", help="One more video in the same question; repeat it.", metavar="VIDEO"),
    ] = None,
    *,
    clip: ClipFlags,
    sound: SoundFlag,
    subtitles: SubtitleFlags,
    model: ModelFlags,
    method: MethodFlags,
    cache: CacheFlags,
    output: OutputFlags,
) -> None:
    """Ask about a video: answers go to stdout, everything else to stderr."""
    settings = settle(clip, sound, subtitles, model, method, cache, output)
    questions = at_least_one(question, more)
    if [video, *(also or ())].count("-") > 1:
        raise UsageError("only one video can come from stdin", "Give the others by their paths.")
    wanted = None
    if schema is not None:
        from purekv_cli.answers.schema import Schema

        wanted = Schema.read(schema)
    from purekv_cli.commands.answering import answer

    with ExitStack() as stack:
        found, *others = (stack.enter_context(opened(each, settings)) for each in (video, *(also or ())))
        answer(found, questions, settings, wanted, others)
