"""The last positions of every prompt: whose attention baselines read, and what they keep whatever its score."""

import torch
from torch import Tensor

_ABOVE_ALL = 1e30  # times a position: above any attention, exact in its order, finite below 10^8 positions


def last(valid: Tensor, count: int | Tensor) -> Tensor:
    """bool [B, N]: the last `count` (one number or int64 [B]) of the positions that `valid` [B, N] marks."""
    from_end = valid.flip(-1).cumsum(-1).flip(-1)
    return valid & (from_end <= torch.as_tensor(count, device=valid.device).reshape(-1, 1))


def first(valid: Tensor, count: int) -> Tensor:
    """bool [B, N]: the first `count` of the positions that `valid` [B, N] marks."""
    return valid & (valid.cumsum(-1) <= count)


def favoured(score: Tensor, recent: Tensor) -> Tensor:
    """Scores [B, H, N] with those of `recent` [B, N] above all others, the latest highest."""
    position = torch.arange(1, score.shape[-1] + 1, device=score.device, dtype=score.dtype)
    return torch.where(recent[:, None], _ABOVE_ALL * position, score)
