"""Which model a command works with and where: settled before any weight is loaded, so that a plan costs nothing."""

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from purekv_cli.errors import ModelUnavailable, UsageError
from purekv_cli.models import registry
from purekv_cli.models.geometry import ModelGeometry
from purekv_cli.pipeline import Listener
from purekv_cli.runtime.events import Progress
from purekv_cli.settings import Settings
from purekv_cli.terminal import Terminal

if TYPE_CHECKING:
    import torch

    from purekv_cli.models.base import Adapter


ACTIVATIONS = 16  # hidden states that are alive at once in a layer, its MLP's wide ones among them


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """A model that was found, and how it would run."""

    source: registry.Source
    geometry: ModelGeometry
    device: "torch.device"
    dtype: "torch.dtype"

    @property
    def names(self) -> tuple[str, ...]:
        """What presets may know it by."""
        return (self.source.name, *([self.source.repo] if self.source.repo else []))

    def describe(self) -> str:
        facts = self.facts()
        return f"{facts['name']}, {facts['dtype']} on {facts['device']}"

    def facts(self) -> dict[str, Any]:
        """For reports."""
        return {
            "name": self.source.name,
            "revision": self.source.revision,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
        }

    def room(self) -> int | None:
        """Video tokens that free memory has room for beside the weights, roughly; None where that is not known."""
        from purekv_cli.memory import free_memory
        from purekv_cli.models.hub import weight_files
        from purekv_cli.models.placement import parameter_bytes

        if self.device.type == "cuda":
            import torch

            free: int | None = torch.cuda.mem_get_info(self.device)[0]
        else:
            free = free_memory()
        if free is None or self.source.folder is None:
            return None
        free -= parameter_bytes(weight_files(self.source.folder), self.dtype)
        width, shape = self.dtype.itemsize, self.geometry
        pixels = 3 * shape.cell**2 * shape.temporal_patch * (1 + 4 + width)  # decoded, normalised, on the device
        hidden = shape.heads * shape.head_dim * width
        return free // (pixels + ACTIVATIONS * hidden + shape.kv_bytes(1, width))

    def load(self, device: str, terminal: Terminal, tell: Listener) -> "Adapter":
        """The model itself; `device` as the user wrote it, because auto may spread layers over several GPUs."""
        _hush(bars=terminal.bars)
        source = registry.fetch(self.source)  # with a bar of its own
        tell(Progress("load", 0, 0))
        adapter = registry.load(source, self.facts()["dtype"], device)
        tell(Progress("load", 1, 1))
        return adapter


def choose_model(settings: Settings, terminal: Terminal) -> ChosenModel:
    """The model that the settings mean.

    Raises:
        UsageError, ModelUnavailable, OutOfResources: no such name, not here, no such device.
    """
    wanted = settings.model
    if wanted.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # parts that a checkpoint only names are not fetched either
    if wanted.model == registry.AUTO:
        source = registry.choose(revision=wanted.revision, offline=wanted.offline, confirm=_confirm(settings))
        if source.is_demo:
            terminal.note("no model is here yet, so the embedded demo model answers; -m 3b downloads a real one")
    else:
        source = registry.resolve(wanted.model, wanted.revision, wanted.offline)
    if source.geometry is None:
        if settings.output.dry_run:
            raise UsageError(
                f"nothing is known of {source.name} before it is fetched", "Run it once without --dry-run."
            )
        _hush(bars=terminal.bars)
        source = registry.fetch(source)
    if source.geometry is None:
        raise ModelUnavailable(f"the sizes of {source.name} are not known", "Its config.json is of an unknown layout.")
    from purekv_cli.models.placement import choose_device, choose_dtype

    device = choose_device(wanted.device)
    return ChosenModel(source, source.geometry, device, choose_dtype(wanted.dtype, device))


def _hush(bars: bool) -> None:
    """Libraries below keep quiet; only a download shows its progress, and only to a person."""
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if not bars:
        disable_progress_bars()


def _confirm(settings: Settings) -> Any:
    """Asks before a download, where there is somebody to ask."""
    asked = sys.stdin.isatty() and sys.stderr.isatty()
    if not asked or settings.output.quiet or settings.output.json or settings.model.offline:
        return None
    return lambda question: typer.confirm(question, err=True)
