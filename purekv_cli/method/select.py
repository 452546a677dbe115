"""From scores to kept positions: text always stays, the best video entries fill the rest of the budget."""

import torch
from torch import Tensor


def select(score: Tensor, entries: int | Tensor, protected: Tensor, valid: Tensor) -> Tensor:
    """The positions that stay in the cache.

    Every row of the batch keeps min(its valid tokens, max(entries, its protected tokens)) positions, whatever its
    neighbours hold. Of equal scores the earlier position wins, so the result is the same on every device and run.

    Args:
        score: float [B, H, N]; H = 1 is one set for all heads. NaN counts as the lowest score.
        entries: positions to keep, protected ones included; an int, or int64 [B] where prompts differ.
        protected: bool [B, N], always kept.
        valid: bool [B, N], False where a row is padded.

    Returns:
        int64 [B, H, P], ascending, rows with fewer padded at the end with -1.
    """
    length = score.shape[-1]
    extremes = torch.finfo(score.dtype)
    ranked = score.nan_to_num(nan=extremes.min, posinf=extremes.max, neginf=extremes.min)
    ranked = ranked.masked_fill((protected & valid)[:, None], float("inf"))
    ranked = ranked.masked_fill(~valid[:, None], float("-inf"))
    wanted = torch.as_tensor(entries, device=score.device)
    count = torch.minimum(torch.maximum(wanted, (protected & valid).sum(-1)), valid.sum(-1))  # [B]
    best = ranked.sort(dim=-1, descending=True, stable=True).indices[..., : int(count.max())]
    spare = torch.arange(best.shape[-1], device=score.device) >= count[:, None, None]
    ascending = best.masked_fill(spare, length).sort(-1).values
    return ascending.masked_fill(ascending == length, -1)
