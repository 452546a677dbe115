"""What a layer shows while tokens are read densely: all that policies look at, and what its successor needs."""

from typing import NamedTuple

import torch
from torch import Tensor


class States(NamedTuple):
    """One layer, R rows of n tokens."""

    query: Tensor  # [R, Hq, n, D], rotated
    key: Tensor  # [R, Hkv, n, D], rotated
    value: Tensor  # [R, Hkv, n, D]
    lse: Tensor  # float32 [R, Hq, n], log-sum-exp of the attention scores
    hidden: Tensor  # [R, 1, n, H], the residual stream after the layer

    def part(self, row: int, tokens: slice) -> "States":
        """Some tokens of one row, which stays an axis."""
        return States(*(each[row : row + 1, :, tokens] for each in self))

    def then(self, later: "States") -> "States":
        """These tokens and, after them, later ones."""
        return States(*(torch.cat(pair, 2) for pair in zip(self, later, strict=True)))
