"""`purekv bench`: dense against PureKV in one run, on this machine, behind a correctness gate."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from purekv_cli.commands.options import DType, with_flags

_LENGTHS = "Prompt lengths, such as 8k,32k,64k,128k (default: what suits the device)."


def _own(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, show_default=more.pop("show_default", False), **more)


@dataclass(frozen=True, slots=True)
class BenchFlags:
    """What is compared, how often, and where it goes."""

    budget: Annotated[str, _own("--budget", help="Budgets, one row each.", metavar="LIST", show_default=True)] = "0.2"
    tokens: Annotated[str | None, _own("--tokens", help=_LENGTHS, metavar="LIST")] = None
    frames: Annotated[
        int | None,
        _own("--frames", help="Frames read of the video, or one length by its frames.", metavar="N", min=1),
    ] = None
    first_token: Annotated[
        bool, _own("--first-token", help="From a file on disk on: VIDEO, or a synthetic 720p clip of 30 s.")
    ] = False
    grid: Annotated[
        str, _own("--grid", help="Video tokens of a frame pair, rows x columns.", metavar="RxC", show_default=True)
    ] = "17x23"
    policy: Annotated[str, _own("--policy", help="Policies, one row each.", metavar="LIST", show_default=True)] = (
        "purekv"
    )
    propagate: Annotated[
        str, _own("--propagate", help="LAYER:SHARE, one row each, or off.", metavar="LIST", show_default=True)
    ] = "4:0.2,4:0.35"
    model: Annotated[str | None, _own("--model", "-m", help="A model by name, as for ask.", metavar="NAME")] = None
    shape: Annotated[
        str | None,
        _own("--shape", help="Random weights in the sizes of 7b, qwen3-vl-8b, ...: no download.", metavar="NAME"),
    ] = None
    dtype: Annotated[DType, _own("--dtype", help="Precision of the weights.")] = DType.auto
    device: Annotated[str, _own("--device", help="auto, cpu, cuda, cuda:1.", metavar="NAME")] = "auto"
    runs: Annotated[int, _own("--runs", help="Timed runs of every row.", min=1, show_default=True)] = 5
    warmup: Annotated[int, _own("--warmup", help="Runs before them.", min=0, show_default=True)] = 1
    max_tokens: Annotated[
        int, _own("--max-tokens", help="Tokens decoded in a run.", min=1, show_default=True, metavar="N")
    ] = 32
    seed: Annotated[int, _own("--seed", help="Of weights and prompts.", show_default=True, metavar="N")] = 0
    report: Annotated[
        Path | None, _own("--report", help="Write a report when done: .json, .md or .html.", metavar="FILE")
    ] = None
    export_json: Annotated[Path | None, _own("--export-json", help="Raw times too.", metavar="FILE")] = None
    export_markdown: Annotated[Path | None, _own("--export-markdown", help="The tables.", metavar="FILE")] = None
    plot: Annotated[Path | None, _own("--plot", help="Prefill and memory over length.", metavar="FILE.png")] = None
    json: Annotated[bool, _own("--json", help="JSON on stdout instead of tables.")] = False
    quiet: Annotated[bool, _own("--quiet", help="Only the result, and errors.")] = False
    verbose: Annotated[bool, _own("--verbose", "-v", help="Tracebacks.")] = False


@with_flags
def bench(
    video: Annotated[
        Path | None, typer.Argument(help="Measure from this file to the first token.", metavar="[VIDEO]")
    ] = None,
    *,
    flags: BenchFlags,
) -> None:
    """Measure dense against PureKV: prefill, decoding, memory."""
    from purekv_cli.bench.command import run

    run(video, flags, sys.argv[1:])
