"""`purekv calibrate`: measure a model on a few clips, and write a preset for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from purekv_cli.commands.options import ClipFlags, ModelFlags, with_flags


def _own(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, show_default=more.pop("show_default", False), **more)


@dataclass(frozen=True, slots=True)
class CalibrateFlags:
    """What is measured, by which measure things are chosen, and where it goes."""

    suite: Annotated[
        str, _own("--suite", help="Rendered clips, where no video is named.", metavar="LIST", show_default=True)
    ] = "short,medium"
    clips: Annotated[int, _own("--clips", help="How many of each suite.", metavar="N", min=1, show_default=True)] = 6
    first_seed: Annotated[
        int, _own("--first-seed", help="Seed of the first one.", metavar="N", min=0, show_default=True)
    ] = 900_000
    questions: Annotated[
        int, _own("--questions", help="Questions asked of each.", metavar="N", min=1, show_default=True)
    ] = 2
    budget: Annotated[
        str, _own("--budget", help="Budgets tried; the first is the preset's.", metavar="LIST", show_default=True)
    ] = "0.2,0.1,0.05"
    policy: Annotated[
        str, _own("--policy", help="Policies tried at all of them.", metavar="LIST", show_default=True)
    ] = "purekv,purekv-uniform,purekv-paper,random"
    tolerance: Annotated[
        float,
        _own("--tolerance", help="Distance propagation or sparsity may add.", metavar="SHARE", show_default=True),
    ] = 0.02
    steps: Annotated[
        int, _own("--steps", help="In which the layers' weights are moved.", metavar="N", min=0, show_default=True)
    ] = 6
    output: Annotated[Path | None, _own("--output", "-o", help="The preset.", metavar="FILE.toml")] = None
    plot: Annotated[Path | None, _own("--plot", help="The correlation matrices.", metavar="FILE.png")] = None
    json: Annotated[bool, _own("--json", help="Every figure as JSON on stdout instead of the preset.")] = False
    quiet: Annotated[bool, _own("--quiet", help="Only the result, and errors.")] = False
    verbose: Annotated[bool, _own("--verbose", "-v", help="Tracebacks.")] = False


@with_flags
def calibrate(
    videos: Annotated[
        list[str] | None, typer.Argument(help="Clips to measure on.", metavar="[VIDEO]...", show_default=False)
    ] = None,
    asked: Annotated[
        list[str] | None, typer.Option("--question", "-q", help="Asked of every clip.", show_default=False)
    ] = None,
    *,
    flags: CalibrateFlags,
    clip: ClipFlags,
    model: ModelFlags,
) -> None:
    """Measure a model's layers and write a preset for it."""
    from purekv_cli.calibrate.run import run

    run(videos or (), asked or (), flags, clip, model)
