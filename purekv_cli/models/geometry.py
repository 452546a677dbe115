"""The numbers of a model that planning needs before any weight is loaded: tokens per frame, bytes per token.

Pure arithmetic on config.json and a preprocessor config; nothing here imports torch.

Which pixel bounds a video frame gets: those of video_preprocessor_config.json, else those of preprocessor_config.json
(the caller passes the file it found), unless the upper one lies above 768 tokens a frame. The released Qwen2.5-VL
files say 16384 tokens there, which is meant for still images; video frames then get 128 to 768 tokens, the bounds of
qwen-vl-utils and of the Qwen2-VL video processor.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VIDEO_MIN_PIXELS = 128 * 28 * 28  # per frame
VIDEO_MAX_PIXELS = 768 * 28 * 28


@dataclass(frozen=True, slots=True)
class ModelGeometry:
    """Sizes of one model's text decoder and of the grid its vision tower makes of a frame."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    patch: int = 14  # pixels
    merge: int = 2  # patches merged per side
    temporal_patch: int = 2  # frames per temporal patch
    min_pixels: int = VIDEO_MIN_PIXELS
    max_pixels: int = VIDEO_MAX_PIXELS

    @property
    def cell(self) -> int:
        """Side of one video token in pixels."""
        return self.patch * self.merge

    def frame_size(self, height: int, width: int, max_pixels: int | None = None) -> tuple[int, int]:
        """(height, width) a frame is resized to: multiples of `cell`, the area within the pixel bounds.

        The rule is `smart_resize` of the Qwen2-VL processors.
        """
        cell, most = self.cell, max_pixels or self.max_pixels
        least = min(self.min_pixels, most)
        rows, columns = round(height / cell) * cell, round(width / cell) * cell
        if rows * columns > most:
            shrink = math.sqrt(height * width / most)
            rows = max(cell, math.floor(height / shrink / cell) * cell)
            columns = max(cell, math.floor(width / shrink / cell) * cell)
        elif rows * columns < least:
            grow = math.sqrt(least / (height * width))
            rows, columns = math.ceil(height * grow / cell) * cell, math.ceil(width * grow / cell) * cell
        return rows, columns

    def grid(self, frames: int, height: int, width: int, max_pixels: int | None = None) -> tuple[int, int, int]:
        """(T, H, W) video tokens of `frames` frames of that size; an odd last frame is repeated."""
        rows, columns = self.frame_size(height, width, max_pixels)
        return math.ceil(frames / self.temporal_patch), rows // self.cell, columns // self.cell

    def kv_bytes(self, tokens: int, bytes_per_value: int = 2) -> int:
        """K and V of `tokens` tokens in all layers and heads."""
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens * bytes_per_value

    @classmethod
    def from_config(cls, config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None) -> "ModelGeometry":
        """Read a Qwen-VL config.json (flat as released, or with a text_config) and its preprocessor config.

        Raises KeyError where config.json lacks a size.
        """
        text = config.get("text_config") or config
        vision = config.get("vision_config") or {}
        least, most = video_pixel_bounds(preprocessor or {})
        return cls(
            layers=text["num_hidden_layers"],
            heads=text["num_attention_heads"],
            kv_heads=text.get("num_key_value_heads") or text["num_attention_heads"],
            head_dim=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
            patch=vision.get("patch_size", 14),
            merge=vision.get("spatial_merge_size", 2),
            temporal_patch=vision.get("temporal_patch_size", 2),
            min_pixels=least,
            max_pixels=most,
        )


def video_pixel_bounds(preprocessor: Mapping[str, Any]) -> tuple[int, int]:
    """(min, max) pixels of a video frame by the rule above; both spellings of the files are read."""
    size = preprocessor.get("size") or {}
    least = preprocessor.get("min_pixels") or size.get("shortest_edge")
    most = preprocessor.get("max_pixels") or size.get("longest_edge")
    if not least or not most or most > VIDEO_MAX_PIXELS:
        return VIDEO_MIN_PIXELS, VIDEO_MAX_PIXELS
    return least, most
