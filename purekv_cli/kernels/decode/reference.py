"""One decode step in plain torch: the truth that the kernels are held to, and what runs on a CPU."""

import torch
from torch import Tensor
from torch.nn import functional as F

from purekv_cli.kernels.decode.lists import Lists


def norm_linear(hidden: Tensor, norm: Tensor, epsilon: float, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W rms_norm(x) + b, in the weight's dtype."""
    return F.linear(_normed(hidden, norm, epsilon), weight, bias)


def norm_gated(hidden: Tensor, norm: Tensor, epsilon: float, gate_up: Tensor) -> Tensor:
    """silu(gate x') * (up x') with x' = rms_norm(x)."""
    gate, up = F.linear(_normed(hidden, norm, epsilon), gate_up).chunk(2)
    return F.silu(gate).mul_(up)


def add_linear(hidden: Tensor, x: Tensor, weight: Tensor) -> None:
    """hidden += W x."""
    hidden += F.linear(x, weight)


def logits(hidden: Tensor, norm: Tensor, epsilon: float, weight: Tensor) -> Tensor:
    """W rms_norm(x) in float32."""
    return norm_linear(hidden, norm, epsilon, weight, None).float()


def attend(
    qkv: Tensor,
    lists: Lists,
    step: Tensor,
    cos: Tensor,
    sin: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    epsilon: float,
    scaling: float,
) -> Tensor:
    """Rotate q and k, append k and v, attend. See `purekv_cli.kernels.decode`."""
    at, dim, kv_heads = int(step), lists.keys.shape[1], len(lists.start)
    rows = qkv.view(-1, dim)
    turned, new_values = rows[:-kv_heads], rows[-kv_heads:]
    if norms is not None:
        query, key = turned[:-kv_heads], turned[-kv_heads:]
        turned = torch.cat([_normed(query, norms[0], epsilon), _normed(key, norms[1], epsilon)])
    low, high = turned.chunk(2, -1)
    turned = turned * cos[at] + torch.cat([-high, low], -1) * sin[at]
    query, new_keys = turned[:-kv_heads].view(kv_heads, -1, dim), turned[-kv_heads:]
    starts = lists.start.tolist()
    ends = [start + kept + at for start, kept in zip(starts, lists.kept.tolist(), strict=True)]
    where = torch.tensor(ends, device=qkv.device)
    lists.keys[where], lists.values[where] = new_keys.to(lists.keys.dtype), new_values.to(lists.values.dtype)
    out = torch.empty_like(query)
    for start, end, queries, one in zip(starts, ends, query, out, strict=True):
        seen = slice(start, end + 1)
        one.copy_(F.scaled_dot_product_attention(queries, lists.keys[seen], lists.values[seen], scale=scaling))
    return out.flatten()


def _normed(x: Tensor, norm: Tensor, epsilon: float) -> Tensor:
    return F.rms_norm(x.float(), norm.shape, eps=epsilon).to(norm.dtype) * norm
