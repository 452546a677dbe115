"""A sparse attention pattern as runs of keys per tile of queries: what ST-SpAttn builds and the sparse kernels read."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

_EXPANDED = 2**22  # keys expanded at once while counting


@dataclass(frozen=True, slots=True)
class RunList:
    """Which keys every query reads, shared by all heads and layers.

    Prompt tokens are permuted so that the rows of a query tile, and most of its keys, lie side by side. A query at
    row i reads the keys j of its tile's runs that come no later in the prompt: order[j] <= order[i]. Runs of a tile
    ascend and never overlap.
    """

    order: Tensor  # int64 [N], prompt position of every permuted row
    row_start: Tensor  # int64 [R + 1], first row of every query tile
    run_ptr: Tensor  # int64 [R + 1], first run of every query tile
    run_start: Tensor  # int64 [M], first row of the run
    run_length: Tensor  # int64 [M]

    @property
    def tiles(self) -> int:
        """R."""
        return len(self.row_start) - 1

    @property
    def inverse(self) -> Tensor:
        """int64 [N], permuted row of every prompt position."""
        return torch.empty_like(self.order).scatter_(0, self.order, torch.arange(len(self.order)).to(self.order))

    @property
    def keys_per_tile(self) -> Tensor:
        """int64 [R], keys in the runs of every tile."""
        summed = torch.cat([self.run_length.new_zeros(1), self.run_length.cumsum(0)])
        return summed[self.run_ptr[1:]] - summed[self.run_ptr[:-1]]

    def keys(self, first: int, last: int) -> Tensor:
        """int64, the keys of tiles first to last - 1, one tile after the other."""
        runs = slice(int(self.run_ptr[first]), int(self.run_ptr[last]))
        lengths = self.run_length[runs]
        before = lengths.cumsum(0) - lengths
        within = torch.arange(int(lengths.sum()), device=lengths.device) - before.repeat_interleave(lengths)
        return self.run_start[runs].repeat_interleave(lengths) + within

    @property
    def density(self) -> float:
        """Query-key pairs that are read, as a share of those of dense causal attention."""
        pairs, tile, per_tile = 0, 0, self.keys_per_tile
        summed = per_tile.cumsum(0)
        while tile < self.tiles:
            read = int(summed[tile] - per_tile[tile])
            stop = max(tile + 1, int(torch.searchsorted(summed, read + _EXPANDED, right=True)))
            pairs += self._pairs(tile, stop, per_tile)
            tile = stop
        length = len(self.order)
        return pairs / max(1, length * (length + 1) // 2)

    def _pairs(self, first: int, last: int, per_tile: Tensor) -> int:
        sizes = self.row_start.diff()[first:last]
        owner = torch.arange(last - first, device=sizes.device).repeat_interleave(per_tile[first:last])
        positions = self.order[self.keys(first, last)]
        rows = self.row_start[first:last, None] + torch.arange(int(sizes.max()), device=sizes.device)
        filled = torch.arange(int(sizes.max()), device=sizes.device) < sizes[:, None]
        queries = torch.where(filled, self.order[rows.clamp(max=len(self.order) - 1)], -1)
        earliest = torch.where(filled, queries, len(self.order)).amin(-1)
        past = positions <= earliest[owner]  # read by the whole tile: most keys
        near = (positions[~past, None] <= queries[owner[~past]]).sum()
        return int(sizes[owner[past]].sum() + near)

    def dense_mask(self) -> Tensor:
        """bool [N, N] in permuted order: row i reads key j. For tests and small prompts."""
        length = len(self.order)
        mask = torch.zeros(length, length, dtype=torch.bool, device=self.order.device)
        for tile in range(self.tiles):
            mask[int(self.row_start[tile]) : int(self.row_start[tile + 1]), self.keys(tile, tile + 1)] = True
        return mask & (self.order[None, :] <= self.order[:, None])

    def to(self, device: torch.device | str) -> "RunList":
        """The same on another device."""
        return RunList(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})
