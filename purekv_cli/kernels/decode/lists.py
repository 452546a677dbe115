"""Where decoding finds K and V: lists of different lengths, one a sequence and KV head, packed one behind the other.

Nothing is padded to the longest list. Every list has room for the tokens to come; how far it is filled follows from
one counter for all layers, so that a step changes nothing but that counter.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Lists:
    """The lists of one layer."""

    keys: Tensor  # [rows, D], shared by all layers
    values: Tensor  # [rows, D]
    start: Tensor  # int64 [S, Hkv], first row of each list
    kept: Tensor  # int64 [S, Hkv], entries before the first step; step s appends at start + kept + s
