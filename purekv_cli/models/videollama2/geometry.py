"""Tokens of a VideoLLaMA2 clip: frames are squares of one size, and the connector halves time, rows and columns.

Its sampler is a convolution of kernel 2 and stride 2 in all three axes: n becomes (n + 2 * padding) // 2, the padding
being 1 in `stc_connector` (8 x 24 x 24 -> 5 x 13 x 13) and none in `stc_connector_v35` (16 x 27 x 27 -> 8 x 13 x 13).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from purekv_cli.errors import ModelUnavailable
from purekv_cli.models.geometry import ModelGeometry, decoder_sizes
from purekv_cli.models.videollama2.tower import find_tower

PADDING = {"stc_connector": 1, "stc_connector_v35": 0}  # by mm_projector_type
MAX_FRAMES = 32  # the reference's own limit
FRAMES = 8  # where config.json does not say
AUDIO_TOKENS = 1496  # of 30 s: 187 steps of 16 frames of 10 ms, 8 bands of 16 mel bins


@dataclass(frozen=True, slots=True)
class ConnectorGeometry(ModelGeometry):
    """Sizes of one VideoLLaMA2; `side` and `cells` are of the square that the tower reads."""

    padding: int = 1  # of the connector's sampler

    def frame_size(self, height: int, width: int, max_pixels: int | None = None) -> tuple[int, int]:
        """Frames stay as they are: the tower's own preprocessing makes squares of them."""
        return height, width

    def grid(self, frames: int, height: int, width: int, max_pixels: int | None = None) -> tuple[int, int, int]:
        """(T, H, W) video tokens; a single frame is shown `self.frames` times, as the reference does with pictures."""
        return (self.shown(frames) + 2 * self.padding) // 2, self.cells, self.cells

    def shown(self, frames: int) -> int:
        """How many frames the tower sees of so many."""
        return min(frames, MAX_FRAMES) if frames > 1 else self.frames or FRAMES

    def tokens_per_frame(self, height: int, width: int, max_pixels: int | None = None) -> float:
        frames = self.shown(1)
        return math.prod(self.grid(frames, height, width)) / frames


RELEASED = {  # by alias
    "videollama2": ConnectorGeometry(
        layers=32, heads=32, kv_heads=8, head_dim=128, side=336, cells=13, frames=16, max_frames=MAX_FRAMES
    ),
    "videollama2.1": ConnectorGeometry(
        layers=28, heads=28, kv_heads=4, head_dim=128, side=384, cells=13, frames=16, max_frames=MAX_FRAMES, padding=0
    ),
}


def connector_geometry(config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None) -> ConnectorGeometry:
    """From a released config.json, and the tower's where that is no released one.

    Raises KeyError where config.json lacks a size, ModelUnavailable for other connectors and unknown towers.
    """
    del preprocessor  # the checkpoint's; the tower has its own
    padding, tower = connector_padding(config), find_tower(config)
    return ConnectorGeometry(
        **decoder_sizes(config),  # type: ignore[arg-type]
        patch=tower.patch,
        side=tower.side,
        cells=(tower.side // tower.patch + 2 * padding) // 2,
        frames=config.get("num_frames") or FRAMES,
        max_frames=MAX_FRAMES,
        padding=padding,
        audio_tokens=AUDIO_TOKENS if config.get("mm_audio_tower") else 0,
    )


def connector_padding(config: Mapping[str, Any]) -> int:
    """Of the sampler that config.json names."""
    kind = config.get("mm_projector_type")
    if kind not in PADDING:
        raise ModelUnavailable(
            f"the checkpoint's connector is {kind}, which purekv cannot run", f"Known are: {', '.join(PADDING)}."
        )
    return PADDING[kind]
