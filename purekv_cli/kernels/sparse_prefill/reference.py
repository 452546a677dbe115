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
    batch, heads, count, dim = query.shape
    device, runs = query.device, runs.to("cpu")
    key_order, query_order, query_row = (o.to(device) for o in (runs.key_order, runs.query_order, runs.query_row))
    sizes, counts = runs.row_start.diff().tolist(), runs.keys_per_tile.tolist()
    room = _GATHERED.get(device.type, 2**22)
    out = query.new_empty(batch, count, heads, dim).transpose(1, 2)
    lse = torch.empty(batch, heads, count, dtype=torch.float32, device=device) if need_lse else None
    ranked = sorted(range(runs.tiles), key=lambda tile: (sizes[tile], counts[tile]))
    first = 0
    while first < len(ranked):
        rows, last = sizes[ranked[first]], first + 1
        each = batch * max(key.shape[1] * dim, rows)
        while last < len(ranked) and sizes[ranked[last]] == rows:
            most = counts[ranked[last]]
            if (last + 1 - first) * most * each > room or most > 1.25 * counts[ranked[first]]:
                break
            last += 1
        group = ranked[first:last]
        places, keys = (tensor.to(device) for tensor in _rows_and_keys(runs, group))
        absent, keys = keys < 0, keys.clamp(min=0)
        seen = (key_order[keys][:, None] <= query_order[places][..., None]) & ~absent[:, None]
        tile_rows = query_row[places]
        tile_out, tile_lse = attention(
            _tiled(query, tile_rows),
            _tiled(key, keys),
            _tiled(value, keys),
            scaling,
            causal=False,
            mask=seen.repeat(batch, 1, 1)[:, None],
            need_lse=need_lse,
        )
        shape = (batch, len(group), heads, rows)
        out[:, :, tile_rows.flatten()] = tile_out.view(*shape, dim).transpose(1, 2).flatten(2, 3)
        if lse is not None and tile_lse is not None:
            lse[:, :, tile_rows.flatten()] = tile_lse.view(shape).transpose(1, 2).flatten(2, 3)
        first = last
    return out, lse


def _rows_and_keys(runs: RunList, group: list[int]) -> tuple[Tensor, Tensor]:
    """Places in query_order [tiles, rows] and in key_order [tiles, most keys], the latter filled up with -1."""
    places = torch.stack([torch.arange(int(runs.row_start[t]), int(runs.row_start[t + 1])) for t in group])
    keys = [runs.keys(tile, tile + 1) for tile in group]
    return places, torch.nn.utils.rnn.pad_sequence(keys, batch_first=True, padding_value=-1)


def _tiled(tensor: Tensor, at: Tensor) -> Tensor:
    """[B, H, N, D] at [tiles, n] -> [B * tiles, H, n, D]."""
    batch, heads, _, dim = tensor.shape
    taken = tensor[:, :, at.flatten()].view(batch, heads, *at.shape, dim)
    return taken.transpose(1, 2).reshape(batch * at.shape[0], heads, at.shape[1], dim)
