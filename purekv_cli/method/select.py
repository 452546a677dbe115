"""From scores to kept positions: protected text stays, the best video entries fill the rest of the budget.

On a GPU the time goes into launches and sorting: one stable sort of the float scores is faster than a partial
selection, and the kept positions come back in order by marking and counting, not by a second sort.
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
    best = _best(_ranked(score, protected & valid, valid), int(count.max()))
    if len(score) == 1:
        return _ascending(best, length)
    spare = torch.arange(best.shape[-1], device=score.device) >= count[:, None, None]
    ascending = best.masked_fill(spare, length).sort(-1).values
    return ascending.masked_fill(ascending == length, -1)


def keep_best(score: Tensor, count: int, protected: Tensor, valid: Tensor) -> Tensor:
    """`select` where the number kept is known: none has more than `count` protected tokens, or fewer valid ones.

    Nothing waits for the device, and it can be captured in a CUDA graph.

    Args:
        score: float [B, H, N].
        count: positions to keep.
        protected: bool [B, N], always kept; at most `count` of them, and
        valid: bool [B, N], never kept where False; at least `count` are True (not checked: that would wait for the
            device).

    Returns:
        int64 [B, H, count], ascending.
    """
    return _ascending(_best(_ranked(score, protected & valid, valid), count), score.shape[-1])


def marked(positions: Tensor, length: int) -> Tensor:
    """bool [B, H, length] of positions [B, H, P], -1 for none."""
    marks = positions.new_zeros(*positions.shape[:-1], length + 1, dtype=torch.bool)
    return marks.scatter_(-1, positions.masked_fill(positions < 0, length), True)[..., :length]


def _ranked(score: Tensor, protected: Tensor, valid: Tensor) -> Tensor:
    """The scores as finite numbers, protected ones above all, those that are not valid below."""
    extremes = torch.finfo(score.dtype)
    ranked = score.nan_to_num(nan=extremes.min, posinf=extremes.max, neginf=extremes.min)
    return ranked.masked_fill(protected[:, None], float("inf")).masked_fill(~valid[:, None], float("-inf"))


def _best(ranked: Tensor, count: int) -> Tensor:
    """int64 [B, H, count], the best positions in falling order; of equal ones the earlier first."""
    return ranked.sort(dim=-1, descending=True, stable=True).indices[..., :count]


def _ascending(best: Tensor, length: int) -> Tensor:
    """The same positions in rising order: a sum over the marked ones says where each goes; the unmarked go nowhere."""
    batch, heads, count = best.shape
    marks = torch.zeros(batch, heads, length, dtype=torch.int32, device=best.device).scatter_(-1, best, 1).flatten()
    place = torch.where(marks > 0, marks.cumsum(0) - 1, best.numel())
    position = torch.arange(length, device=best.device).repeat(batch * heads)
    return position.new_empty(best.numel() + 1).scatter_(0, place, position)[:-1].view(batch, heads, count)
