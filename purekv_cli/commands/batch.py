"""`purekv batch`: the same questions about many videos, continued where it stopped."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from purekv_cli.commands.options import ClipFlags, MethodFlags, ModelFlags, SoundFlag, SubtitleFlags, with_flags
from purekv_cli.settings import settle


class Table(StrEnum):
    csv = "csv"
    md = "md"


def _own(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, show_default=False, **{"rich_help_panel": "Batch", **more})


_SHOWN = {"rich_help_panel": "Output", "show_envvar": False}


@dataclass(frozen=True, slots=True)
class BatchFlags:
    """What is asked, where it goes, and how the work is spread."""

    question: Annotated[
        list[str] | None, _own("--question", "-q", help="What to ask of every video; repeat it.", metavar="TEXT")
    ] = None
    questions: Annotated[
        Path | None, _own("--questions", help="More of them from a file, one a line.", metavar="FILE")
    ] = None
    output: Annotated[
        str | None,
        _own("--output", "-o", help="Answers as JSON lines; run again to continue. - is stdout.", metavar="FILE"),
    ] = None
    probe: Annotated[bool, _own("--probe", help="Search folders by opening files, not by their extension.")] = False
    retry_failed: Annotated[bool, _own("--retry-failed", help="Ask again what failed before.")] = False
    fail_fast: Annotated[bool, _own("--fail-fast", help="Stop at the first failure.")] = False
    timeout: Annotated[
        float | None, _own("--timeout", help="Seconds a video may take.", metavar="SECONDS", min=0.01)
    ] = None
    shard: Annotated[
        str | None, _own("--shard", help="Only this part of the videos: 2/8 is the second of eight.", metavar="I/N")
    ] = None
    workers: Annotated[
        int | None, _own("--workers", help="Processes that answer (default: one a GPU, else one).", metavar="N", min=1)
    ] = None
    cores: Annotated[int | None, _own("--cores", help="CPU cores of a worker without a GPU.", metavar="N", min=1)] = (
        None
    )
    decoders: Annotated[
        int | None,
        _own("--decoders", help="Clips a worker decodes while it answers (default: 1 to 8).", metavar="N", min=0),
    ] = None
    together: Annotated[
        int | None,
        _own("--together", help="Answers a GPU generates at once (default: 4).", metavar="N", min=1, max=8),
    ] = None
    ray: Annotated[
        str | None,
        _own("--ray", help="Spread over a Ray cluster: auto, local or its address.", metavar="auto|local|ADDRESS"),
    ] = None
    format: Annotated[Table | None, _own("--format", help="Write all answers as a table too, beside the output.")] = (
        None
    )
    quiet: Annotated[bool | None, _own("--quiet", help="Only errors.", envvar="PUREKV_QUIET", **_SHOWN)] = None
    verbose: Annotated[bool | None, _own("--verbose", "-v", help="Tracebacks.", envvar="PUREKV_VERBOSE", **_SHOWN)] = (
        None
    )
    dry_run: Annotated[
        bool | None, _own("--dry-run", help="Count what would be asked, and stop.", rich_help_panel="Output")
    ] = None


@with_flags
def batch(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="Videos, folders, patterns, .jsonl files of jobs, or - for a list on stdin.", metavar="PATH"
        ),
    ],
    *,
    flags: BatchFlags,
    clip: ClipFlags,
    sound: SoundFlag,
    subtitles: SubtitleFlags,
    model: ModelFlags,
    method: MethodFlags,
) -> None:
    """Ask about many videos, resumably: one JSON line an answer."""
    settings = settle(flags, clip, sound, subtitles, model, method)
    from purekv_cli.batch.run import Request, run

    run(
        Request(
            paths=paths,
            questions=flags.question or (),
            questions_file=flags.questions,
            output=flags.output,
            probing=flags.probe,
            retry_failed=flags.retry_failed,
            fail_fast=flags.fail_fast,
            timeout=flags.timeout,
            shard=flags.shard,
            workers=flags.workers,
            cores=flags.cores,
            decoders=flags.decoders,
            ray=flags.ray,
            together=flags.together,
            form=flags.format.value if flags.format else None,
        ),
        settings,
    )
