"""Attention as the formula says it, in float32: the truth the fast backends are held to, and the fallback."""

import torch
from torch import Tensor


def attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, *, causal: bool, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """out = softmax(q k^T * scaling) v and lse = log sum exp(q k^T * scaling), GQA by broadcasting.

    The last query is aligned with the last key. A row that sees nothing gives out = 0, lse = -inf.
    Shapes as in `purekv_cli.kernels.attention.attention`.
    """
    batch, heads, rows, dim = query.shape
    kv_heads, columns = key.shape[1:3]
    grouped = query.float().view(batch, kv_heads, heads // kv_heads, rows, dim)
    scores = (grouped @ key.float()[:, :, None].mT).view(batch, heads, rows, columns) * scaling
    if causal:
        seen = torch.ones(rows, columns, dtype=torch.bool, device=query.device).tril(columns - rows)
        mask = seen if mask is None else seen & mask
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    lse = scores.logsumexp(-1)
    weights = (scores - lse[..., None]).exp().nan_to_num(0.0)  # -inf - -inf in a row that sees nothing
    out = weights.view(batch, kv_heads, heads // kv_heads, rows, columns) @ value.float()[:, :, None]
    return out.view(batch, heads, rows, dim).to(query.dtype), lse
