"""The numbers of a model that planning needs before any weight is loaded: tokens per frame, bytes per token.

Pure arithmetic on config.json and a preprocessor config; nothing here imports torch.

Which pixel bounds a video frame gets: those of video_preprocessor_config.json, else those of preprocessor_config.json
(the caller passes the file it found), unless the upper one lies above 768 tokens a frame. The released Qwen2.5-VL
files say 16384 tokens there, which is meant for still images; video frames then get 128 to 768 tokens, the bounds of
qwen-vl-utils and of the Qwen2-VL video processor. A family whose tower takes squares of one size has no bounds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from purekv_cli.errors import UsageError

VIDEO_MIN_TOKENS, VIDEO_MAX_TOKENS = 128, 768  # of a frame
VIDEO_MIN_PIXELS = VIDEO_MIN_TOKENS * 28 * 28  # per frame
VIDEO_MAX_PIXELS = VIDEO_MAX_TOKENS * 28 * 28
THINKER_RATE, THINKER_HEARS = 25, 300  # Qwen2.5-Omni: tokens a second of sound, seconds of it


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
    side: int | None = None  # pixels: every frame becomes a square of this side; None: sized by the pixel bounds
    cells: int = 0  # with `side`: video tokens per side of a frame
    crop: bool = False  # with `side`: the square is cut from the middle of the frame, not the whole frame squeezed
    frames: int | None = None  # that the model was trained on: so many are sampled, of the middles of equal parts
    max_frames: int | None = None  # that the model takes; None: no bound of its own
    several: bool = False  # a prompt may show several videos
    stamped: bool = False  # the prompt tells frames' times in the video; else the model counts from the clip's start
    audio_tokens: int = 0  # that a clip's sound becomes, whatever its length
    audio_rate: int = 0  # tokens that a second of sound becomes instead
    audio_seconds: float = 0.0  # with `audio_rate`: what lies beyond is not heard

    @property
    def cell(self) -> int:
        """Side of one video token in pixels, about."""
        return self.patch * self.merge if self.side is None else max(1, self.side // self.cells)

    @property
    def hears(self) -> bool:
        """Whether the model takes sound."""
        return bool(self.audio_tokens or self.audio_rate)

    def tokens_of_sound(self, seconds: float) -> int:
        """That so many seconds of sound become, about."""
        return self.audio_tokens or round(self.audio_rate * min(seconds, self.audio_seconds))

    def frame_size(self, height: int, width: int, max_pixels: int | None = None) -> tuple[int, int]:
        """(height, width) a frame is resized to: multiples of `cell`, the area within the pixel bounds.

        The rule is `smart_resize` of the Qwen2-VL processors. With `side` it is that square, or with `crop` the least
        size whose shorter edge is `side`.
        """
        if self.side is not None:
            shorter = min(height, width)
            rows, columns = (int(self.side * edge / shorter) if self.crop else self.side for edge in (height, width))
            return rows, columns
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
        steps = math.ceil(frames / self.temporal_patch)
        if self.side is not None:
            return steps, self.cells, self.cells
        rows, columns = self.frame_size(height, width, max_pixels)
        return steps, rows // self.cell, columns // self.cell

    def tokens_per_frame(self, height: int, width: int, max_pixels: int | None = None) -> float:
        """Video tokens of one frame of a longer clip."""
        return math.prod(self.grid(self.temporal_patch, height, width, max_pixels)) / self.temporal_patch

    def kv_bytes(self, tokens: int, bytes_per_value: int = 2) -> int:
        """K and V of `tokens` tokens in all layers and heads."""
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens * bytes_per_value

    @classmethod
    def from_config(cls, config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None) -> "ModelGeometry":
        """Read a Qwen-VL config.json (flat as released, or with a text_config) and its preprocessor config.

        Raises KeyError where config.json lacks a size.
        """
        vision = config.get("vision_config") or {}
        least, most = video_pixel_bounds(preprocessor or {}, vision.get("patch_size", 14) * 2)
        return cls(
            **decoder_sizes(config),
            patch=vision.get("patch_size", 14),
            merge=vision.get("spatial_merge_size", 2),
            temporal_patch=vision.get("temporal_patch_size", 2),
            min_pixels=least,
            max_pixels=most,
        )


def decoder_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of the text decoder, by the field names of `ModelGeometry`.

    Older releases leave out what is their decoder's default.
    """
    text = _text(config)
    heads = text["num_attention_heads"]
    return {
        "layers": text["num_hidden_layers"],
        "heads": heads,
        "kv_heads": text.get("num_key_value_heads") or heads,
        "head_dim": text.get("head_dim") or text["hidden_size"] // heads,
    }


def _text(config: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's part of a config.json, with its type's defaults."""
    text = config.get("text_config") or config
    return _TEXT_DEFAULTS.get(text.get("model_type", ""), {}) | dict(text)


def squares(config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None) -> ModelGeometry:
    """Of families whose tower takes squares and merges `pool` x `pool` patches to a token; a step is one frame."""
    vision = config["vision_config"]
    side, patch = (_first(vision[name]) for name in ("image_size", "patch_size"))
    pool = config.get("scale_factor") or (round(1 / ratio) if (ratio := config.get("downsample_ratio")) else 2)
    cells = math.ceil(side // patch / pool)
    context = _text(config).get("max_position_embeddings")
    return ModelGeometry(
        **decoder_sizes(config),
        patch=patch,
        merge=pool,
        temporal_patch=1,
        side=side,
        cells=cells,
        max_frames=max(1, (context - _TALK) // (cells**2 + _STAMP)) if context else None,
        crop=bool((preprocessor or {}).get("do_center_crop")),
    )


def single_frames(config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None) -> ModelGeometry:
    """Of VideoLLaMA3: Qwen's rule for the size of a frame, but a step is one frame, and merging is the processor's."""
    merge = (preprocessor or {}).get("merge_size", 2)
    vision = {**config["vision_config"], "temporal_patch_size": 1, "spatial_merge_size": merge}
    return ModelGeometry.from_config({**config, "vision_config": vision}, preprocessor)


def thinker(config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None) -> ModelGeometry:
    """Of the part of Qwen2.5-Omni that sees, hears and answers."""
    sees = ModelGeometry.from_config(config.get("thinker_config") or config, preprocessor)
    longest = (preprocessor or {}).get("chunk_length", THINKER_HEARS)
    return replace(sees, audio_rate=THINKER_RATE, audio_seconds=float(longest))


def video_pixel_bounds(preprocessor: Mapping[str, Any], cell: int = 28) -> tuple[int, int]:
    """(min, max) pixels of a video frame by the rule above; both spellings of the files are read."""
    size = preprocessor.get("size") or {}
    least = preprocessor.get("min_pixels") or size.get("shortest_edge")
    most = preprocessor.get("max_pixels") or size.get("longest_edge")
    if not least or not most or most > VIDEO_MAX_TOKENS * cell**2:
        return VIDEO_MIN_TOKENS * cell**2, VIDEO_MAX_TOKENS * cell**2
    return least, most


def _first(value: Any) -> int:
    """Of a square's side, written once or per axis."""
    return int(value[0] if isinstance(value, list | tuple) else value)


_TALK, _STAMP = 1024, 24  # tokens that questions and answers take of a decoder's context, and text beside a frame
_LLAMA = {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096}
_TEXT_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA | {"max_position_embeddings": 2048},
    "mistral": _LLAMA | {"num_key_value_heads": 8, "max_position_embeddings": 131072},
    "qwen2": _LLAMA | {"num_key_value_heads": 32, "max_position_embeddings": 32768},
}


def one_video(name: str) -> UsageError:
    """For models that take no more."""
    return UsageError(
        f"{name} takes one video a question", "Ask about each by itself, or take a model of Qwen's VL families (-m 3b)."
    )
