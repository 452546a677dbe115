"""The order in which a Qwen2.5-VL tower sees the patches of one temporal step, and where its windows lie in it.

Every step of a clip has the same order, so it is made for one step and kept: merged tokens sorted by window, windows
in raster order. Rotary angles follow a patch's row and column (first half of the frequencies row, second half column).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Windows:
    """One temporal step of S patches, S / unit merged tokens of `unit` patches each."""

    order: Tensor  # int64 [S / unit]: merged tokens as the tower sees them
    starts: Tensor  # int32 [W + 1]: first patch of every window in that order, and S
    longest: int  # patches of the longest window
    cos: Tensor  # float32 [S, D], of the patches in that order
    sin: Tensor  # float32 [S, D]


def make_windows(rows: int, columns: int, merge: int, side: int, frequencies: Tensor) -> Windows:
    """Windows of a step of `rows` x `columns` patches.

    Args:
        rows, columns: multiples of `merge`.
        side: of a window, in merged tokens.
        frequencies: float32 [D / 4], on the device where the result shall be.
    """
    high, wide = rows // merge, columns // merge
    row, column = torch.arange(high)[:, None], torch.arange(wide)[None, :]
    window = (row // side * -(-wide // side) + column // side).flatten()
    order = torch.argsort(window, stable=True)
    sizes = torch.bincount(window) * merge**2
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]).int()
    # Patches come as merged tokens in raster order, the patches of one in raster order themselves.
    inner = torch.arange(merge)
    patch_row = (row[..., None, None] * merge + inner[:, None]).expand(high, wide, merge, merge)
    patch_column = (column[..., None, None] * merge + inner).expand(high, wide, merge, merge)
    places = torch.stack([patch_row.reshape(high * wide, -1)[order], patch_column.reshape(high * wide, -1)[order]], -1)
    device = frequencies.device
    angles = (places.flatten(0, 1).to(device)[..., None] * frequencies).flatten(1).repeat(1, 2)
    return Windows(order.to(device), starts.to(device), int(sizes.max()), angles.cos(), angles.sin())
