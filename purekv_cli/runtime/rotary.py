"""The angles by which a decoder turns the queries and keys of a prompt."""

from typing import Any

import torch
from torch import Tensor

from purekv_cli.method.policies.base import Rotary


def rotary_of(module: Any, positions: Tensor, like: Tensor) -> Rotary:
    """The angles of a prompt.

    Args:
        module: the decoder's own: (x, positions [3, B, n] or [B, n]) -> cos, sin [B, n, D] in x's dtype.
        positions: rotary positions, [3, B, N], [4, B, N] with the text row first, or [B, N].
        like: a tensor on the right device and of the right dtype.
    """
    positions = positions.to(like.device)
    if positions.dim() == 3 and positions.shape[0] == 4:
        positions = positions[1:]

    def angles(at: Tensor) -> tuple[Tensor, Tensor]:
        if at.dim() == 2 and hasattr(module, "mrope_section"):
            at = at.expand(3, -1, -1)
        cos, sin = module(like, at)
        return cos, sin

    def ahead(count: int) -> tuple[Tensor, Tensor]:
        last = positions.amax(-1)
        start = (last if last.dim() == 1 else last.amax(0)) + 1  # the axes of text go together
        return angles(start[:, None] + torch.arange(count, device=start.device))

    return Rotary(*angles(positions), ahead)
