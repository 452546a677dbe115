"""Frames to what a vision tower reads, in plain torch: for Qwen's, bit for bit what Qwen2VLVideoProcessor makes.

The library's processor needs torchvision; nothing else here does. Three steps: an antialiased bicubic resize on uint8
(always on the CPU, whose integer kernel is the reference), rescaling and normalisation fused into one subtraction and
one division, and a permutation that puts the patches of one merged token side by side. The device that wants the
patches makes them, from bytes: a quarter of the upload. Frames go through in slices, so that the float copy of a long
clip exists only once, in the dtype the model wants.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from purekv_cli.models.geometry import ModelGeometry

_SLICE = 32  # frames normalised at once


@dataclass(frozen=True, slots=True)
class PixelScale:
    """Mean and standard deviation of a channel, of pixels between 0 and 1. The defaults are CLIP's."""

    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)  # R, G, B
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    @classmethod
    def from_config(cls, preprocessor: Mapping[str, Any], default: "PixelScale | None" = None) -> "PixelScale":
        """Read a preprocessor config; what it leaves out is the default's, CLIP's where none is given."""
        default = default or cls()
        return cls(
            tuple(preprocessor.get("image_mean") or default.mean),
            tuple(preprocessor.get("image_std") or default.std),
        )


def preprocess(
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
    geometry: ModelGeometry,
    scale: PixelScale,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Patches of a clip and their grid.

    Args:
        pixels: uint8 [N, H, W, 3], RGB. An odd last frame is repeated to fill its temporal patch.
        size: (height, width) to resize to, multiples of `geometry.cell`.

    Returns:
        Patches [T * rows * columns, 3 * temporal_patch * patch * patch] and the grid, int64 [1, 3]: T, and the rows
        and columns of a frame in patches before merging.
    """
    depth, device = geometry.temporal_patch, torch.device(device)
    rows, columns = size[0] // geometry.patch, size[1] // geometry.patch
    steps = -(-len(pixels) // depth)
    out = torch.empty(steps, rows * columns, 3 * depth * geometry.patch**2, dtype=dtype, device=device)
    for start in range(0, steps, _SLICE // depth):
        stop = min(start + _SLICE // depth, steps)
        frames = torch.from_numpy(np.ascontiguousarray(pixels[start * depth : stop * depth]))
        if frames.shape[1:3] != size:
            upright = frames.permute(0, 3, 1, 2).contiguous()
            frames = F.interpolate(upright, size=size, mode="bicubic", antialias=True).permute(0, 2, 3, 1)
        out[start:stop] = to_patches(upload(frames, device), geometry, scale)
    return out.flatten(0, 1), torch.tensor([[steps, rows, columns]], device=device)


def patches_of(
    pixels: NDArray[np.uint8],
    geometry: ModelGeometry,
    scale: PixelScale,
    device: torch.device,
    dtype: torch.dtype,
    needed: bool = True,
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """`preprocess` at the size that the frames have where it is one of whole cells, else at the geometry's.

    Args:
        needed: False makes no patches, only their grid.

    Returns:
        Patches, their grid on the CPU, and the size (height, width).
    """
    height, width = pixels.shape[1:3]
    fits = not (height % geometry.cell or width % geometry.cell)
    size = (height, width) if fits else geometry.frame_size(height, width)
    rows, columns = size[0] // geometry.patch, size[1] // geometry.patch
    grid = torch.tensor([[-(-len(pixels) // geometry.temporal_patch), rows, columns]])
    patches = preprocess(pixels, size, geometry, scale, device, dtype)[0] if needed else torch.empty(0)
    return patches, grid, size


def squares_of(
    pixels: NDArray[np.uint8],
    geometry: ModelGeometry,
    scale: PixelScale,
    device: torch.device,
    dtype: torch.dtype,
    mode: str = "bicubic",
) -> Tensor:
    """Frames as squares of `geometry.side`, [N, 3, side, side]: what the LLaVA and InternVL video processors make.

    Args:
        pixels: uint8 [N, H, W, 3]; resized unless they have the size of `geometry.frame_size` already.
    """
    side = geometry.side or 0
    size = geometry.frame_size(*pixels.shape[1:3])
    out = torch.empty(len(pixels), 3, side, side, dtype=dtype, device=device)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    for start in range(0, len(pixels), _SLICE):
        frames = torch.from_numpy(np.ascontiguousarray(pixels[start : start + _SLICE])).permute(0, 3, 1, 2)
        if frames.shape[2:] != size:
            frames = F.interpolate(frames.contiguous(), size=size, mode=mode, antialias=True)
        frames = upload(frames[:, :, top : top + side, left : left + side], device)
        out[start : start + _SLICE] = normalised(frames, scale)
    return out


def normalised(frames: Tensor, scale: PixelScale) -> Tensor:
    """Rescaled and normalised in one step, float32, of uint8 [n, 3, H, W]."""
    mean, std = (torch.tensor(values).mul(255).view(3, 1, 1).to(frames.device) for values in (scale.mean, scale.std))
    return frames.float().sub(mean).div(std)


def upload(frames: Tensor, device: torch.device) -> Tensor:
    """Bytes on the device; a GPU fetches them itself, from pinned memory, while the CPU goes on."""
    if device.type != "cuda":
        return frames.to(device)
    pinned = torch.empty(frames.shape, dtype=frames.dtype, pin_memory=True)
    np.copyto(pinned.numpy(), frames.numpy())  # by one thread: all of torch's would take the cores from the decoder
    return pinned.to(device, non_blocking=True)


def to_patches(frames: Tensor, geometry: ModelGeometry, scale: PixelScale) -> Tensor:
    """Patches of frames that have their size: float32 [T, rows * columns, 3 * temporal_patch * patch * patch].

    Args:
        frames: uint8 [n, H, W, 3] on any device, H and W multiples of `geometry.cell`. A last frame without a partner
            is repeated.
    """
    patch, merge, depth = geometry.patch, geometry.merge, geometry.temporal_patch
    rows, columns, steps = frames.shape[1] // patch, frames.shape[2] // patch, -(-len(frames) // depth)
    values = normalised(frames.permute(0, 3, 1, 2), scale)
    if missing := steps * depth - len(values):
        values = torch.cat([values, values[-1:].expand(missing, -1, -1, -1)])
    cells = values.reshape(
        steps, depth, 3, rows // merge, merge, patch, columns // merge, merge, patch
    )  # step, frame, channel, then row and column each as token, patch in token, pixel in patch
    return cells.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(steps, rows * columns, -1)
