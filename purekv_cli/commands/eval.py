"""`purekv eval`: how often answers are right, by policy and budget, on a rendered world or one's own data."""

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from purekv_cli.commands.options import ClipFlags, ModelFlags, SoundFlag, with_flags


class WayName(StrEnum):
    auto = "auto"
    replay = "replay"
    engine = "engine"


def _own(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, show_default=more.pop("show_default", False), **more)


@dataclass(frozen=True, slots=True)
class EvalFlags:
    """What is compared, on which questions, and where it goes."""

    policy: Annotated[
        str, _own("--policy", help="Policies besides dense, or all.", metavar="LIST", show_default=True)
    ] = "purekv,random"
    budget: Annotated[str, _own("--budget", help="Budgets, one column each.", metavar="LIST", show_default=True)] = (
        "0.2,0.1,0.05"
    )
    when: Annotated[
        str,
        _own(
            "--when",
            help="When is pruned: before the question is known, with it known and fed again, after the prompt.",
            metavar="LIST",
            show_default=True,
        ),
    ] = "unknown,known,prompt"
    suite: Annotated[
        str | None,
        _own(
            "--suite",
            help="Of clipworld: short,medium,long (default), verylong, outdoors-...; of a file: its own.",
            metavar="LIST",
        ),
    ] = None
    clips: Annotated[
        int | None, _own("--clips", help="Clips of each suite of clipworld (default: 200).", metavar="N", min=1)
    ] = None
    first_seed: Annotated[
        int | None, _own("--first-seed", help="Seed of the first clip (default: 20000).", metavar="N", min=0)
    ] = None
    questions: Annotated[
        int | None,
        _own("--questions", help="Questions a clip, the narration first (default: 5).", metavar="N", min=1),
    ] = None
    limit: Annotated[int | None, _own("--limit", help="Videos of each suite at most.", metavar="N", min=1)] = None
    quick: Annotated[
        bool, _own("--quick", help="Clipworld in five minutes on two cores: few clips, wide intervals.")
    ] = False
    way: Annotated[
        WayName,
        _own(
            "--way",
            help="replay reads all arms off one prefill; engine asks as `purekv ask` does (auto: replay if it can).",
            show_default=True,
        ),
    ] = WayName.auto
    propagate: Annotated[
        str, _own("--propagate", help="LAYER:SHARE, one more row each, or off.", metavar="LIST", show_default=True)
    ] = "off"
    sparse: Annotated[bool, _own("--sparse/--no-sparse", help="Rows with sparse attention in prefill too.")] = False
    workers: Annotated[
        int | None,
        _own(
            "--workers",
            help="Processes that each hold the model (default: several for demo, else 1).",
            metavar="N",
            min=1,
        ),
    ] = None
    output: Annotated[
        Path | None,
        _own("--output", "-o", help="One JSON line an answer; the same command goes on from there.", metavar="FILE"),
    ] = None
    report: Annotated[
        Path | None, _own("--report", help="Write a report when done: .json, .md or .html.", metavar="FILE")
    ] = None
    export_json: Annotated[Path | None, _own("--export-json", help="Raw counts of every arm.", metavar="FILE")] = None
    export_markdown: Annotated[Path | None, _own("--export-markdown", help="The tables.", metavar="FILE")] = None
    plot: Annotated[Path | None, _own("--plot", help="Right answers over bytes kept.", metavar="FILE.png")] = None
    json: Annotated[bool, _own("--json", help="JSON on stdout instead of tables.")] = False
    quiet: Annotated[bool, _own("--quiet", help="Only the result, and errors.")] = False
    verbose: Annotated[bool, _own("--verbose", "-v", help="Tracebacks.")] = False


@with_flags
def eval_(
    source: Annotated[
        str,
        typer.Argument(
            help="clipworld, a .jsonl file, or a folder with Video-MME, MVBench, LongVideoBench, MLVU or AVSD.",
            metavar="clipworld|FILE|FOLDER",
        ),
    ],
    *,
    flags: EvalFlags,
    clip: ClipFlags,
    sound: SoundFlag,
    model: ModelFlags,
) -> None:
    """Measure answer quality by policy and budget."""
    from purekv_cli.eval.run import run

    run(source, flags, clip, sound, model, sys.argv[1:])
