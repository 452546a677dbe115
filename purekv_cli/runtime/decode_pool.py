"""The cache while an answer is generated: all entries of all layers and heads packed into one pool, with room behind.

The pool, its starts and its counters keep their addresses from question to question, so a captured graph stays valid as
long as everything fits; it is made anew, larger, when it does not. Sizes go in steps of an eighth of a power of two.
"""

import torch
from torch import Tensor

from purekv_cli.kernels.decode import Lists
from purekv_cli.runtime.cache import CompactCache


class DecodePool:
    """K and V of all layers and sequences [rows, D], and where each list begins."""

    def __init__(self, layers: int, kv_heads: int, rows: int, like: Tensor, seats: int = 1) -> None:
        """`like`: [0, D], of the type and on the device that the pool shall have; `seats`: most sequences."""
        self.rows, self.used = rows, 0
        self.keys = like.new_empty(rows + 1, like.shape[1])  # the last row takes what lies in holes
        self.values = torch.empty_like(self.keys)
        self.start = torch.zeros(layers, seats, kv_heads, dtype=torch.int64, device=like.device)
        self.kept = torch.zeros_like(self.start)

    def lists(self, layer: int, seats: int) -> Lists:
        """Of the first `seats` sequences."""
        return Lists(self.keys, self.values, self.start[layer, :seats], self.kept[layer, :seats])

    @property
    def kv_bytes(self) -> int:
        """Bytes of the K and V tensors."""
        return 2 * self.keys.numel() * self.keys.element_size()

    def fill(self, cache: CompactCache, counts: Tensor, room: int, seat: int = 0) -> None:
        """Copy the entries of `cache` behind what is used, each list with room for `room` tokens behind it.

        Args:
            counts: int64 [layers, Hkv] on the CPU, entries that are no holes.
            seat: which sequence they are.
        """
        sizes = counts.flatten() + room
        starts = (self.used + sizes.cumsum(0) - sizes).view_as(counts)
        self.used += int(sizes.sum())
        self.start[:, seat].copy_(starts)
        self.kept[:, seat].copy_(counts)
        for index, layer in enumerate(cache.layers):
            keys, values, positions = layer.stored()
            entries = keys.shape[2]
            if bool((counts[index] == entries).all()):
                first = int(starts[index, 0])
                rows = slice(first, first + keys.shape[1] * (entries + room))
                for pool, kept in ((self.keys, keys), (self.values, values)):
                    pool[rows].view(keys.shape[1], entries + room, -1)[:, :entries].copy_(kept[0])
                continue
            real = positions[0].expand(keys.shape[1], -1) >= 0
            rank = real.long().cumsum(1) - 1
            where = torch.where(real, self.start[index, seat][:, None] + rank, self.rows).flatten()
            self.keys.index_copy_(0, where, keys[0].flatten(0, 1))
            self.values.index_copy_(0, where, values[0].flatten(0, 1))

    def appended(self, count: int) -> tuple[Tensor, Tensor]:
        """K and V [layers, Hkv, count, D] of the first sequence's first tokens that were appended."""
        rows = (self.start + self.kept)[:, 0, :, None] + torch.arange(count, device=self.start.device)
        return self.keys[rows], self.values[rows]

    def enlarge(self, rows: int) -> None:
        """Move to tensors of so many rows: addresses change."""
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            new = old.new_empty(rows + 1, old.shape[1])
            new[: self.used].copy_(old[: self.used])
            setattr(self, name, new)
        self.rows = rows


def entries(cache: CompactCache) -> Tensor:
    """How many entries every list holds, int64 [layers, Hkv] on the CPU; asks the device once."""
    found = []
    for layer in cache.layers:
        keys, _, positions = layer.stored()
        found.append((positions[0] >= 0).sum(-1).expand(keys.shape[1]))
    return torch.stack(found).cpu()


def roomy(size: int) -> int:
    """The next size in steps of an eighth of a power of two."""
    step = max(1, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step
