"""A sparse attention pattern as runs of keys per tile of queries: what ST-SpAttn builds and the sparse kernels read."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

TILE_ROWS = 128  # queries of a tile at most: what a tensor core kernel takes at once


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)  # kernels keep their plans beside a living list
class RunList:
    """Which keys every query reads, shared by all heads and layers.

    Keys and queries have an order each: keys one in which what a query tile reads lies side by side, queries one that
    fills tiles. A query reads the keys of its tile's runs that come no later in the prompt. Positions ascend within a
    tile of queries and within a run, so of every run the keys that precede the whole tile come first; runs of a tile
    never overlap, and may be empty. A list may leave out queries: then queries and outputs are compact tensors of
    the rows that it has, in the prompt's order.
    """

    key_order: Tensor  # int64 [N], prompt position of every key
    query_order: Tensor  # int64 [n], prompt position of every query, tile after tile
    query_row: Tensor  # int64 [n], where it lies among the list's queries in prompt order; query_order if n = N
    row_start: Tensor  # int64 [R + 1], the first of query_order in every query tile
    run_ptr: Tensor  # int64 [R + 1], first run of every query tile
    run_start: Tensor  # int64 [M], the run's first of key_order
    run_length: Tensor  # int64 [M]
    run_past: Tensor  # int64 [M], leading keys of the run that precede every query of the tile: they need no mask
    most_past: int | None = None  # a bound on the sum of run_past, if known without asking the device
    most_near: int | None = None  # and on the sum of run_length - run_past

    @property
    def length(self) -> int:
        """N, prompt tokens."""
        return len(self.key_order)

    @property
    def tiles(self) -> int:
        """R."""
        return len(self.row_start) - 1

    @property
    def device(self) -> torch.device:
        return self.key_order.device

    @property
    def rows(self) -> Tensor:
        """int64 [n], prompt positions of the list's queries, ascending: the rows of query and output tensors."""
        return torch.empty_like(self.query_order).scatter_(0, self.query_row, self.query_order)

    @property
    def keys_per_tile(self) -> Tensor:
        """int64 [R], keys in the runs of every tile."""
        summed = torch.cat([self.run_length.new_zeros(1), self.run_length.cumsum(0)])
        return summed[self.run_ptr[1:]] - summed[self.run_ptr[:-1]]

    def keys(self, first: int, last: int) -> Tensor:
        """int64, the keys (places in key_order) of tiles first to last - 1, one tile after the other."""
        runs = slice(int(self.run_ptr[first]), int(self.run_ptr[last]))
        return _expanded(self.run_start[runs], self.run_length[runs])

    @property
    def density(self) -> float:
        """Query-key pairs that are read, as a share of those of dense causal attention."""
        tile = torch.arange(self.tiles, device=self.device)
        sizes, tile_of_run = self.row_start.diff(), tile.repeat_interleave(self.run_ptr.diff())
        near = self.run_length - self.run_past
        keys = self.key_order[_expanded(self.run_start + self.run_past, near)]
        # Positions ascend within a tile, so the queries that read a key are those from some row of it on.
        placed = tile.repeat_interleave(sizes) * self.length + self.query_order
        first = torch.searchsorted(placed, tile_of_run.repeat_interleave(near) * self.length + keys)
        end = self.row_start[1:][tile_of_run].repeat_interleave(near)
        pairs = int((self.run_past * sizes[tile_of_run]).sum() + (end - first).sum())
        return pairs / max(1, self.length * (self.length + 1) // 2)

    def dense_mask(self) -> Tensor:
        """bool [N, N] in the prompt's order: token i reads token j. For tests and small prompts."""
        mask = torch.zeros(self.length, self.length, dtype=torch.bool, device=self.device)
        for tile in range(self.tiles):
            queries = self.query_order[int(self.row_start[tile]) : int(self.row_start[tile + 1])]
            mask[queries[:, None], self.key_order[self.keys(tile, tile + 1)]] = True
        return mask.tril()

    def to(self, device: torch.device | str) -> "RunList":
        """The same on another device."""
        if torch.device(device) == self.device:
            return self
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in values.items()}
        return RunList(**moved)


def _expanded(start: Tensor, length: Tensor) -> Tensor:
    """start[0], start[0] + 1, ..., start[0] + length[0] - 1, start[1], ..."""
    before = length.cumsum(0) - length
    return torch.arange(int(length.sum()), device=length.device) + (start - before).repeat_interleave(length)
