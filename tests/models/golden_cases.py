"""The inputs behind tests/data in one place: what made a golden and what is compared with it cannot drift apart."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IMAGE, VIDEO, START, END, PAD = 3, 4, 5, 6, 0  # token ids of the position cases
MERGE, TOKENS_PER_SECOND = 2, 2

Segment = tuple[str, int] | tuple[str, int, int, int] | tuple[str, int, int, int, float]


@dataclass(frozen=True)
class PositionCase:
    """Rows of segments: ("text", n), ("image", T, H, W) or ("video", T, H, W, seconds a grid step), merged sizes."""

    name: str
    rows: tuple[tuple[Segment, ...], ...]

    def tensors(self) -> dict[str, Tensor | None]:
        """What get_rope_index takes; rows are padded on the left."""
        ids, images, videos, seconds = [], [], [], []
        for row in self.rows:
            tokens: list[int] = []
            for kind, *numbers in row:
                if kind == "text":
                    tokens += range(10, 10 + int(numbers[0]))
                    continue
                t, h, w = (int(number) for number in numbers[:3])
                (images if kind == "image" else videos).append([t, h * MERGE, w * MERGE])
                if kind == "video":
                    seconds.append(numbers[3])
                tokens += [START, *[IMAGE if kind == "image" else VIDEO] * (t * h * w), END]
            ids.append(tokens)
        longest = max(map(len, ids))
        return {
            "input_ids": torch.tensor([[PAD] * (longest - len(row)) + row for row in ids]),
            "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids]),
            "image_grid_thw": torch.tensor(images) if images else None,
            "video_grid_thw": torch.tensor(videos) if videos else None,
            "second_per_grid_ts": torch.tensor(seconds, dtype=torch.float32) if videos else None,
        }


FPS = (1, 2, 4, 0.5, 3, 23.976, 0.7, 1.9, 12.5, 29.97, 7)


def sweep() -> list[PositionCase]:
    """One clip of every length from 1 to 768 frames, sampled at whole and fractional rates, text on both sides."""
    return [
        PositionCase(
            f"{frames} frames at {FPS[frames % len(FPS)]} fps",
            (
                (
                    ("text", 4),
                    ("video", -(-frames // 2), 2 + frames % 2, 2 + frames % 3, 2 / FPS[frames % len(FPS)]),
                    ("text", 9),
                ),
            ),
        )
        for frames in range(1, 769)
    ]


def mixes(fractional: bool) -> list[PositionCase]:
    """Images with videos, several videos, text only, padded batches; seconds whole or fractional."""
    a, b, c = (0.5, 1 / 3, 2.7) if fractional else (1.0, 2.0, 4.0)
    image, clip = ("image", 1, 4, 6), ("video", 3, 2, 3, a)
    return [
        PositionCase("text only", ((("text", 7),),)),
        PositionCase("text only, padded", ((("text", 7),), (("text", 3),))),
        PositionCase("video first and last", ((clip,),)),
        PositionCase("image then video", ((("text", 2), image, ("text", 3), clip, ("text", 5)),)),
        PositionCase("video then image", ((("text", 2), clip, ("text", 1), image, ("text", 5)),)),
        PositionCase(
            "images between videos",
            (
                (
                    image,
                    clip,
                    ("text", 2),
                    ("image", 1, 1, 9),
                    ("video", 5, 1, 2, b),
                    image,
                    ("video", 4, 7, 2, c),
                    ("text", 3),
                ),
            ),
        ),
        PositionCase("slow wide clip", ((("text", 3), ("video", 2, 2, 40, a), ("text", 3)),)),
        PositionCase("tall clip", ((("text", 3), ("video", 2, 33, 1, b), ("text", 3)),)),
        PositionCase(
            "long sparse clip", ((("text", 3), ("video", 24, 1, 2, 17.3 if fractional else 17.0), ("text", 3)),)
        ),
        PositionCase(
            "padded batch",
            (
                (("text", 3), clip, ("text", 4)),
                (("text", 1), ("video", 6, 3, 2, b), ("text", 9)),
                (("text", 2), image, ("video", 1, 2, 2, c), ("text", 1)),
                (("text", 5),),
            ),
        ),
    ]


def digest(tensor: Tensor) -> str:
    """Short hash of a tensor's shape and bytes."""
    blob = repr(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes()
    return hashlib.sha256(blob).hexdigest()[:16]


@dataclass(frozen=True)
class PixelCase:
    """A clip of structured noise and the pixel bounds it is processed with."""

    name: str
    frames: int
    height: int
    width: int
    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 768 * 28 * 28
    full: bool = False  # the golden keeps the whole tensor, not a hash

    def pixels(self) -> NDArray[np.uint8]:
        """uint8 [N, H, W, 3]: moving gradients (smooth), noise (sharp) and a hard edge (overshoot)."""
        rng = np.random.default_rng(self.frames * 1000003 + self.height * 1009 + self.width)
        y, x = np.mgrid[0 : self.height, 0 : self.width]
        clip = np.stack(
            [np.stack([y * 2 + k * 5, x + 11 * k, (x + y) * 3], -1) % 256 for k in range(self.frames)]
        ) + rng.integers(-20, 21, (self.frames, self.height, self.width, 3))
        clip[:, :, self.width // 2 :: 7] = 255
        return clip.clip(0, 255).astype(np.uint8)


PIXELS = [
    PixelCase("small, shrunk", 2, 61, 90, 28 * 28, 56 * 56, full=True),
    PixelCase("odd count, grown", 3, 25, 31, 56 * 56, 112 * 112),
    PixelCase("one frame, as it is", 1, 28, 56, 28 * 28, 112 * 112, full=True),
    PixelCase("480p", 7, 480, 854),
    PixelCase("720p, shrunk", 4, 720, 1280),
    PixelCase("portrait", 5, 640, 360),
    PixelCase("thumbnail, grown", 6, 90, 160),
    PixelCase("already at size", 34, 168, 224, 168 * 168, 280 * 280),
    PixelCase("many frames", 67, 100, 75, 56 * 56, 84 * 84),
]
