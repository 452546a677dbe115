"""Frames to the squares that CLIP and SigLIP towers read: what their image processors make, with Pillow alone.

CLIP scales the shorter edge and cuts the middle; SigLIP squeezes the whole frame. The reference can also pad frames to
a square with the tower's mean colour first; it does so in training, not when it answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from purekv_cli.models.preprocess import PixelScale
from purekv_cli.models.videollama2.geometry import MAX_FRAMES


@dataclass(frozen=True, slots=True)
class Squares:
    """How a tower's preprocessor makes squares of frames."""

    side: int  # pixels
    crop: bool  # whether the middle is cut out, or the whole frame squeezed
    scale: PixelScale

    @classmethod
    def from_config(cls, preprocessor: Mapping[str, Any], side: int) -> "Squares":
        """Read a preprocessor_config.json; `side` is the tower's."""
        squeezed = "siglip" in str(preprocessor.get("image_processor_type", "clip")).lower()
        return cls(side, not squeezed, PixelScale.from_config(preprocessor))

    def pixels(self, frames: NDArray[np.uint8], count: int | None = None, pad: bool = False) -> Tensor:
        """float32 [T, 3, side, side] of frames [n, H, W, 3]; at most 32 of them, as in the reference.

        Args:
            count: fewer frames are filled up with black ones to so many.
            pad: to a square with the mean colour, before anything else.
        """
        pictures = [Image.fromarray(frame) for frame in frames]
        height, width = frames.shape[1:3]
        black = Image.new("RGB", (height, width))  # height and width swapped: so the reference has it
        pictures = [*pictures, *[black] * ((count or 0) - len(pictures))][:MAX_FRAMES]
        squares = np.stack([np.asarray(self._square(self._padded(p) if pad else p)) for p in pictures])
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.scale.mean, self.scale.std))
        return (torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255 - mean) / std

    def _square(self, picture: Image.Image) -> Image.Image:
        width, height = size = picture.size
        if not self.crop:
            return picture.resize((self.side, self.side), Image.Resampling.BICUBIC)
        width, height = (int(self.side * edge / min(size)) for edge in size)
        left, top = (width - self.side) // 2, (height - self.side) // 2
        scaled = picture.resize((width, height), Image.Resampling.BICUBIC)
        return scaled.crop((left, top, left + self.side, top + self.side))

    def _padded(self, picture: Image.Image) -> Image.Image:
        width, height = picture.size
        side = max(width, height)
        square = Image.new("RGB", (side, side), tuple(int(value * 255) for value in self.scale.mean))
        square.paste(picture, ((side - width) // 2, (side - height) // 2))
        return square
