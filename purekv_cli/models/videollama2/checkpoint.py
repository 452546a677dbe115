"""Weights in the released layout into the model: transformers loads them, our key map says what goes where.

Some checkpoints hold the vision tower's weights, some leave them to the tower's own repository: both are read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from purekv_cli.errors import ModelUnavailable
from purekv_cli.models import hub
from purekv_cli.models.videollama2.config import VideoLlama2Config
from purekv_cli.models.videollama2.model import KEYS, VideoLlama2
from purekv_cli.models.videollama2.tower import fetch_tower, find_tower

_DAMAGED = "The checkpoint is damaged, half downloaded or of another layout: fetch it again."


class Checkpoint:
    """Loads a folder as transformers' classes do."""

    @staticmethod
    def from_pretrained(folder: Path, **how: Any) -> tuple[VideoLlama2, dict[str, Any]]:
        """The model and what was missing.

        Args:
            how: further arguments of transformers' `from_pretrained`, with `output_loading_info`.

        Raises:
            ModelUnavailable: another kind of model, or the tower's weights are neither here nor in its repository.
        """
        released = hub.read_json(folder / "config.json")
        tower = find_tower(released)
        config = VideoLlama2Config.from_released(released, tower.vision, shapes_in(folder))
        loaded: Any = VideoLlama2.from_pretrained(folder, config=config, key_mapping=KEYS, **how)
        model, report = loaded
        missing = {key for key in report["missing_keys"] if key.startswith("vision_tower.")}
        if len(missing) == len(model.vision_tower.state_dict()):
            fill_tower(model, fetch_tower(tower))
            report["missing_keys"] = set(report["missing_keys"]) - missing
        return model, report


def shapes_in(folder: Path) -> dict[str, tuple[int, ...]]:
    """Of a checkpoint's weights; reads only the headers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in hub.weight_files(folder):
        with safe_open(path, "pt") as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes


def from_weights(released: Mapping[str, Any], vision: Mapping[str, Any], weights: Mapping[str, Tensor]) -> VideoLlama2:
    """The model of weights under released names, in their dtype, on the CPU."""
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    config = VideoLlama2Config.from_released(released, vision, shapes)
    model: VideoLlama2
    dtype = next(iter(weights.values())).dtype
    loaded: Any = VideoLlama2.from_pretrained(
        None, config=config, state_dict=dict(weights), key_mapping=KEYS, dtype=dtype, output_loading_info=True
    )
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ModelUnavailable(f"the checkpoint lacks {len(missing)} weights, such as {missing[0]}", _DAMAGED)
    return model.eval()


def fill_tower(model: VideoLlama2, folder: Path) -> None:
    """Weights of the vision tower from its own repository, which may hold a text tower too."""
    found: dict[str, Tensor] = {}
    wanted = set(model.vision_tower.state_dict())
    for path in hub.weight_files(folder):
        with safe_open(path, "pt") as file:
            names = {name.removeprefix("vision_model."): name for name in file.keys()}  # noqa: SIM118
            found |= {ours: file.get_tensor(names[ours]) for ours in wanted & names.keys()}
    if missing := sorted(wanted - found.keys()):
        raise ModelUnavailable(f"{folder} lacks {len(missing)} weights of the tower, such as {missing[0]}", _DAMAGED)
    model.vision_tower.load_state_dict(found)
