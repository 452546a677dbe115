"""From the flags of `purekv bench` to its result: model and request, the bench, tables and files."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
import typer
from rich.console import Console
from transformers import PreTrainedModel
from transformers.utils import logging

from purekv_cli.bench import engines, plot, plot_stages, table
from purekv_cli.bench.clip import write
from purekv_cli.bench.compare import Bench
from purekv_cli.bench.export import FORMATS, facts, to_json
from purekv_cli.bench.first_token import FromFile
from purekv_cli.bench.measure import limits
from purekv_cli.bench.request import (
    CPU_LENGTHS,
    GPU_LENGTHS,
    TEXT_AFTER,
    TEXT_BEFORE,
    Request,
    read_budgets,
    read_counts,
    read_grid,
    read_names,
    read_propagations,
)
from purekv_cli.bench.result import Result
from purekv_cli.bench.shapes import build, shape
from purekv_cli.errors import UsageError
from purekv_cli.method.policies import make
from purekv_cli.models import registry
from purekv_cli.models.geometry import ModelGeometry
from purekv_cli.models.placement import choose_device, choose_dtype
from purekv_cli.models.preprocess import PixelScale
from purekv_cli.presets import choose
from purekv_cli.report.write import write_whole
from purekv_cli.runtime.vision_weights import read_tower
from purekv_cli.runtime.weights import Unsupported
from purekv_cli.targets import check_target
from purekv_cli.terminal import Terminal, page
from purekv_cli.video.probe import probe

if TYPE_CHECKING:
    from purekv_cli.commands.bench import BenchFlags

INTERRUPTED = 130


def run(video: Path | None, flags: "BenchFlags", arguments: list[str]) -> None:
    """Everything, in order: what can be wrong with the request is found before any work.

    Args:
        video: measured from the file on; None: a synthetic clip, if that was asked for.

    Raises:
        PureKVError, and typer.Exit with 1 behind a red gate, 130 after Ctrl-C.
    """
    terminal = Terminal(flags.quiet)
    device = choose_device(flags.device)
    name = _model_name(flags, device)
    from_file = video is not None or flags.first_token
    if video is not None:
        probe(video)
    request = _request(flags, device, from_file)
    base = choose(None, _names(flags, name)).method
    for policy in request.policies:
        make(policy, base)
    for path, suffix in ((flags.export_json, ".json"), (flags.export_markdown, ".md"), (flags.plot, ".png")):
        check_target(path, (suffix,))
    check_target(flags.report, FORMATS)
    dtype = choose_dtype(flags.dtype.value, device)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with _progress(terminal) as tell, TemporaryDirectory(prefix="purekv-bench-") as folder:
        tell(f"building {name}")
        model, geometry, scale = _load(flags, name, device, dtype)
        tell("limits of the device")
        engine, baseline = engines.ours(model).name, f"transformers, SDPA: {engines.sdpa_kernel_name(model)}"
        known = facts(device, arguments, name, dtype) | {"engine": engine, "baseline": baseline}
        result = Result(known, limits(device, dtype))
        source = None
        if from_file:
            _needs_known_tower(model)
            tell("clip")
            path, frames = video or _clip(Path(folder), device), flags.frames or _frames(device)
            source = FromFile(model, path, frames, geometry, scale, flags.seed)
            known["stock preprocessing"] = source.preprocessing
        Bench(model, request, base, result, tell, source).run()
    _show(flags, result, terminal)
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)
    failures = [row.failure for row in result.rows] + [walk.failure for walk in result.walks]
    if not result.green or all(failures):
        raise typer.Exit(1)


def _clip(folder: Path, device: torch.device) -> Path:
    """A synthetic clip: 30 s of 720p for a GPU, a few small seconds for a CPU."""
    path = folder / "synthetic-clip.mp4"
    if device.type == "cuda":
        write(path, seconds=30)
    else:
        write(path, seconds=2, size=(192, 256))
    return path


def _frames(device: torch.device) -> int:
    """Frames that are read of a clip where --frames does not say."""
    return 64 if device.type == "cuda" else 8


def _request(flags: "BenchFlags", device: torch.device, from_file: bool) -> Request:
    grid = read_grid(flags.grid)
    if flags.frames is not None and flags.tokens is not None and not from_file:
        raise UsageError("--frames and --tokens contradict each other", "Give one of them.")
    if from_file and flags.tokens is None:
        tokens: tuple[int, ...] = ()
    elif flags.frames is not None and not from_file:
        tokens = (TEXT_BEFORE + TEXT_AFTER + -(-flags.frames // 2) * grid[0] * grid[1],)
    else:
        tokens = read_counts(flags.tokens or (GPU_LENGTHS if device.type == "cuda" else CPU_LENGTHS))
    return Request(
        tokens=tokens,
        grid=grid,
        budgets=read_budgets(flags.budget),
        policies=read_names(flags.policy),
        propagations=read_propagations(flags.propagate),
        runs=flags.runs,
        warmup=flags.warmup,
        max_tokens=flags.max_tokens,
        seed=flags.seed,
    )


def _model_name(flags: "BenchFlags", device: torch.device) -> str:
    """For people: a shape with random weights, or a model."""
    if flags.shape and flags.model:
        raise UsageError("--shape and --model contradict each other", "Give one of them.")
    if flags.model:
        return flags.model
    if flags.shape is None:
        return "shape 7b, random weights" if device.type == "cuda" else registry.DEMO
    shape(flags.shape)
    return f"shape {flags.shape}, random weights"


def _names(flags: "BenchFlags", name: str) -> tuple[str, ...]:
    """What presets may know the model by."""
    size = flags.shape or flags.model or ("demo" if name == registry.DEMO else "7b")
    return (size, registry.ALIASES.get(size, size))


def _load(
    flags: "BenchFlags", name: str, device: torch.device, dtype: torch.dtype
) -> tuple[PreTrainedModel, ModelGeometry, PixelScale]:
    """The model, and how it wants its frames."""
    if flags.model or name == registry.DEMO:
        kind = str(dtype).removeprefix("torch.")
        adapter = registry.load(registry.resolve(flags.model or name), kind, str(device))
        return adapter.model, adapter.geometry, getattr(adapter, "scale", PixelScale())
    model = build(flags.shape or "7b", device, dtype, flags.seed)
    return model, ModelGeometry.from_config(model.config.to_dict()), PixelScale()


def _needs_known_tower(model: PreTrainedModel) -> None:
    try:
        read_tower(model)
    except Unsupported as reason:
        raise UsageError(
            f"from a file on only models with Qwen2.5-VL's vision tower are measured: {reason}",
            "Leave out the video and --first-token.",
        ) from None


def _show(flags: "BenchFlags", result: Result, terminal: Terminal) -> None:
    if flags.json:
        terminal.write(to_json(result))
    else:
        page().print(table.rich(result))
    for path in (flags.export_json, flags.export_markdown, flags.report):
        if path:
            write_whole(FORMATS[path.suffix.lower()](result), path)
            terminal.note(f"written: {path}")
    if flags.plot:
        stages = flags.plot.with_stem(f"{flags.plot.stem}-first-token") if result.rows else flags.plot
        for path, draw in ((flags.plot, plot.draw), (stages, plot_stages.draw)):
            if draw(result, path):
                terminal.note(f"written: {path}")


@contextmanager
def _progress(terminal: Terminal) -> Iterator[Callable[[str], None]]:
    """What is being done: one line that changes for a person, one a length for a log."""
    if terminal.bars:
        with Console(stderr=True, highlight=False, markup=False).status("") as status:
            yield status.update
        return
    said: set[str] = set()

    def tell(step: str) -> None:
        part = step.partition(":")[0]
        if part not in said:
            said.add(part)
            terminal.note(f"purekv bench: {part}")

    yield tell
