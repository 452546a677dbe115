"""Propagation: which tokens flow on above a layer.

The paper prunes the cache; here the pruning reaches the hidden states. The layer below P has attended and been scored:
all text and the best video tokens so far go on, the others end there, so attention and MLPs above run on a share of
the prompt. The set is at least as large as the cache's budget, so that the layers above still have a choice, and it
holds the last token, whose hidden state is the prompt's result.
"""

import math

import torch
from torch import Tensor

from purekv_cli.method.config import Propagation


def flowing_count(propagate: Propagation, length: int, entries: int, text: int) -> int:
    """How many of `length` tokens flow on: the share, but no fewer than the budget's entries, the text and the last."""
    wanted = math.floor(propagate.share * length + 1e-9)
    return min(length, max(wanted, entries, min(length, text + 1)))


def flowing(score: Tensor, video: Tensor, count: int) -> Tensor:
    """The tokens that flow on.

    Args:
        score: float32 [N], running importance at the layer below.
        video: bool [N].
        count: of `flowing_count`, at least the text and the last token.

    Returns:
        int64 [count], ascending.
    """
    ranked = score.nan_to_num(nan=torch.finfo(score.dtype).min).masked_fill(~video, float("inf"))
    ranked[-1:] = float("inf")
    return best(ranked, count)


def best(ranked: Tensor, count: int) -> Tensor:
    """Places of the `count` largest of `ranked` [N], ascending; of equal values the earlier ones, on every device."""
    return ranked.sort(descending=True, stable=True).indices[:count].sort().values
