"""Sparse prefill in plain torch: gather the keys of query tiles and attend, many tiles of one size at a time.

Tiles are sorted by rows and keys, so that those of a batch are alike and little is padded.
"""

import torch
from torch import Tensor

from purekv_cli.kernels.attention import attention
from purekv_cli.method.runs import RunList

_GATHERED = {"cpu": 2**22, "cuda": 2**25}  # elements of gathered keys, and of masks, per batch of tiles


def sparse_prefill(
    query: Tensor, key: Tensor, value: Tensor, runs: RunList, scaling: float, need_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """See `purekv_cli.kernels.sparse_prefill.sparse_prefill`."""
    batch, heads, _, dim = query.shape
    sizes, counts = runs.row_start.diff(), runs.keys_per_tile
    order = runs.order.to(query.device)
    room = _GATHERED.get(query.device.type, 2**22)
    out = torch.empty_like(query)
    lse = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device) if need_lse else None
    ranked = sorted(range(runs.tiles), key=lambda tile: (int(sizes[tile]), int(counts[tile])))
    first = 0
    while first < len(ranked):
        last = first + 1
        while last < len(ranked) and int(sizes[ranked[last]]) == int(sizes[ranked[first]]):
            tiles, most = last + 1 - first, int(counts[ranked[last]])
            each = batch * max(key.shape[1] * dim, int(sizes[ranked[first]]))
            if tiles * most * each > room or most > 1.25 * int(counts[ranked[first]]):
                break
            last += 1
        group = ranked[first:last]
        rows, keys = (tensor.to(query.device) for tensor in _rows_and_keys(runs, group))
        absent, keys = keys < 0, keys.clamp(min=0)
        seen = (order[keys][:, None] <= order[rows][..., None]) & ~absent[:, None]
        tile_out, tile_lse = attention(
            _tiled(query, rows),
            _tiled(key, keys),
            _tiled(value, keys),
            scaling,
            causal=False,
            mask=seen.repeat(batch, 1, 1)[:, None],
            need_lse=need_lse,
        )
        shape = (batch, len(group), heads, rows.shape[1])
        out[:, :, rows.flatten()] = tile_out.view(*shape, dim).transpose(1, 2).flatten(2, 3)
        if lse is not None and tile_lse is not None:
            lse[:, :, rows.flatten()] = tile_lse.view(shape).transpose(1, 2).flatten(2, 3)
        first = last
    return out, lse


def _rows_and_keys(runs: RunList, group: list[int]) -> tuple[Tensor, Tensor]:
    """Rows [tiles, rows] and keys [tiles, most keys], filled up with -1."""
    device = runs.order.device
    rows = torch.stack([torch.arange(int(runs.row_start[t]), int(runs.row_start[t + 1]), device=device) for t in group])
    keys = [runs.keys(tile, tile + 1) for tile in group]
    return rows, torch.nn.utils.rnn.pad_sequence(keys, batch_first=True, padding_value=-1)


def _tiled(tensor: Tensor, at: Tensor) -> Tensor:
    """[B, H, N, D] at [tiles, n] -> [B * tiles, H, n, D]."""
    batch, heads, _, dim = tensor.shape
    taken = tensor[:, :, at.flatten()].view(batch, heads, *at.shape, dim)
    return taken.transpose(1, 2).reshape(batch * at.shape[0], heads, at.shape[1], dim)
