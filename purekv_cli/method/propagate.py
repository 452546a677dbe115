"""Propagation: which tokens flow on above a layer.

The paper prunes the cache; here the pruning reaches the hidden states. The layer below P has been scored: all text and
the best video tokens so far go on, the others end there, so attention and MLPs above run on a share of the prompt. The
set is at least as large as the cache's budget, so that the layers above still have a choice, and it holds the rows
whose attention is read and the last token, whose hidden state is the prompt's result. Low layers do not yet know all
that higher ones will ask for: the tokens that changed most from the frame before count as much as those looked at.
"""

import math

import torch
from torch import Tensor

from purekv_cli.method.config import Propagation
from purekv_cli.method.pattern import ROWS, RunList
from purekv_cli.method.select import keep_best


def flowing_count(propagate: Propagation, length: int, entries: int, needed: int) -> int:
    """How many of `length` tokens flow on: the share, but no fewer than the budget's entries or those needed."""
    wanted = math.floor(propagate.share * length + 1e-9)
    return min(length, max(wanted, entries, needed))


def flowing(
    score: Tensor, needed: Tensor, count: int, video: Tensor | None = None, change: Tensor | None = None
) -> Tensor:
    """The tokens that flow on, int64 [count], ascending; nothing waits for the device.

    Args:
        score: float32 [1, H, N], running importance at the layer below; heads are pooled.
        needed: bool [1, N], at most `count` tokens that flow on whatever their score.
        count: of `flowing_count`.
        video: int64 [V], positions of the video tokens, and
        change: float32 [V], how much each changed from the frame before: the better of a token's two ranks counts.
    """
    best = score.amax(1, keepdim=True)
    if video is not None and change is not None:
        rank = torch.maximum(_ranks(best[0, 0, video]), _ranks(change))
        best = torch.zeros_like(best).index_copy(2, video, rank[None, None])
    return keep_best(best, count, needed, torch.ones_like(needed))[0, 0]


def _ranks(values: Tensor) -> Tensor:
    """From 0, the smallest, float32 [V]; of equal values the earlier one ranks higher, as when entries are kept."""
    order = values.flip(0).sort(stable=True).indices
    ranks = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return ranks.flip(0).float()


def causal_rows(rows: Tensor, length: int) -> RunList:
    """Dense causal attention of the tokens `rows` [n] alone: one run of keys for every tile of them."""
    start = torch.arange(0, len(rows) + ROWS, ROWS, device=rows.device).clamp(max=len(rows))
    tiles = len(start) - 1
    return RunList(
        key_order=torch.arange(length, device=rows.device),
        query_order=rows,
        query_row=torch.arange(len(rows), device=rows.device),
        row_start=start,
        run_ptr=torch.arange(tiles + 1, device=rows.device),
        run_start=torch.zeros(tiles, dtype=torch.int64, device=rows.device),
        run_length=rows[start[1:] - 1] + 1,
        run_past=rows[start[:-1]] + 1,
    )
