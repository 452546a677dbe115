"""Attention mass inside a sparse layer: a row hands out its attention to the keys that the layer's list lets it read.

Text rows read everything in every layer, so for them this is `row_mass`. It differs for video rows, which no default
policy observes; so it exists in plain torch, one tile of the list after the other, for measurements and policies of
one's own. It waits for the device once a tile.
"""

import torch
from torch import Tensor

from purekv_cli.kernels.attention_mass.reduce import Reduce
from purekv_cli.method.runs import RunList


def listed_mass(
    query: Tensor,
    key: Tensor,
    runs: RunList,
    scaling: float,
    rows: Tensor,
    lse: Tensor | None = None,
    reduce: Reduce = "sum",
) -> Tensor:
    """Mass of every prompt position, float32 [B, Hkv, N], under the mask of `runs`.

    Args:
        query: [B, Hq, n, D], row i is the token at position runs.rows[i].
        key: [B, Hkv, N, D], row j is the token at position runs.key_order[j].
        runs: the layer's pattern.
        scaling: of the dot product.
        rows: bool [n], the observed queries.
        lse: natural-log LSE of the queries over the keys that they read, [B, Hq, n]; None: computed on the spot.
        reduce: "sum" or "max" over rows and the heads of a group.
    """
    batch, heads, _, dim = query.shape
    kv_heads = key.shape[1]
    runs = runs.to(query.device)
    mass = torch.zeros(batch, kv_heads, runs.length, dtype=torch.float32, device=query.device)
    ends = runs.row_start.tolist()
    for tile in range(runs.tiles):
        places = torch.arange(ends[tile], ends[tile + 1], device=query.device)
        places = places[rows[runs.query_row[places]]]
        keys = runs.keys(tile, tile + 1)
        if len(places) == 0 or len(keys) == 0:
            continue
        taken, at = runs.query_row[places], runs.key_order[keys]
        grouped = query[:, :, taken].float().view(batch, kv_heads, heads // kv_heads, -1, dim)
        unseen = at[None, :] > runs.query_order[places, None]
        scores = (grouped @ key[:, :, None, keys].float().mT * scaling).masked_fill(unseen, float("-inf"))
        if lse is None:
            total = scores.logsumexp(-1, keepdim=True)
        else:
            total = lse[:, :, taken].float().view(*scores.shape[:-1], 1)
        paid = (scores - total).exp().masked_fill(unseen, 0.0)  # a row without keys has lse = -inf
        if reduce == "sum":
            mass[..., at] += paid.sum((2, 3))
        else:
            mass[..., at] = torch.maximum(mass[..., at], paid.amax((2, 3)))
    return mass
