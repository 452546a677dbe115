"""From scores to kept positions: text always stays, the best video entries fill the rest of the budget.

Scores are ranked as integers that carry their position, so that no two are equal: then the best `count` are one
definite set, found by a partial selection instead of a stable sort of everything.
"""

import torch
from torch import Tensor


def select(score: Tensor, entries: int | Tensor, protected: Tensor, valid: Tensor) -> Tensor:
    """The positions that stay in the cache.

    Every row of the batch keeps min(its valid tokens, max(entries, its protected tokens)) positions, whatever its
    neighbours hold. Of equal scores the earlier position wins, so the result is the same on every device and run.
    How many that is depends on the masks: reading them waits for the device (see `keep_best`).

    Args:
        score: float [B, H, N]; H = 1 is one set for all heads. NaN counts as the lowest score.
        entries: positions to keep, protected ones included; an int, or int64 [B] where prompts differ.
        protected: bool [B, N], always kept.
        valid: bool [B, N], False where a row is padded.

    Returns:
        int64 [B, H, P], ascending, rows with fewer padded at the end with -1.
    """
    wanted = torch.as_tensor(entries, device=score.device)
    count = torch.minimum(torch.maximum(wanted, (protected & valid).sum(-1)), valid.sum(-1))  # [B]
    length = score.shape[-1]
    best = _best(_ranks(score, protected & valid, valid), int(count.max()))
    spare = torch.arange(best.shape[-1], device=score.device) >= count[:, None, None]
    ascending = best.masked_fill(spare, length).sort(-1).values
    return ascending.masked_fill(ascending == length, -1)


def keep_best(score: Tensor, count: int, protected: Tensor) -> Tensor:
    """`select` where the number kept is known: whole prompts, none with more than `count` protected tokens.

    Nothing waits for the device, and it can be captured in a CUDA graph.

    Args:
        score: float [B, H, N].
        count: positions to keep, at most N.
        protected: bool [B, N], always kept; at most `count` of them (not checked: that would wait for the device).

    Returns:
        int64 [B, H, count], ascending.
    """
    return _best(_ranks(score, protected, None), count).sort(-1).values


def _ranks(score: Tensor, protected: Tensor, valid: Tensor | None) -> Tensor:
    """int64 [B, H, N], all different: larger is better, of equal scores the earlier position is."""
    extremes = torch.finfo(torch.float32)
    ranked = score.float().nan_to_num(nan=extremes.min, posinf=extremes.max, neginf=extremes.min)
    ranked = ranked.masked_fill(protected[:, None], float("inf")) + 0.0  # no -0.0, which is equal to 0.0
    if valid is not None:
        ranked = ranked.masked_fill(~valid[:, None], float("-inf"))
    bits = ranked.view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()  # as integers in the order of the floats
    latest_first = torch.arange(score.shape[-1] - 1, -1, -1, device=score.device)
    return (ordered << 32) | latest_first


def _best(ranks: Tensor, count: int) -> Tensor:
    """int64 [B, H, count], positions of the largest ranks, best first."""
    return ranks.topk(count, dim=-1).indices
