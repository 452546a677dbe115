"""One decode step in plain torch: the truth that the kernels are held to, and what runs on a CPU."""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from purekv_cli.kernels.decode.lists import Lists


def embed(table: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
    """Row tokens[step] of the table in float32."""
    return table.index_select(0, tokens.index_select(0, step))[0].float()


def norm_linear(hidden: Tensor, norm: Tensor, epsilon: float, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W rms_norm(x) + b, in the weight's dtype."""
    x = _normed(hidden, norm, epsilon)
    return torch.mv(weight, x) if bias is None else torch.addmv(bias, weight, x)


def norm_gated(hidden: Tensor, norm: Tensor, epsilon: float, gate_up: Tensor) -> Tensor:
    """silu(gate x') * (up x') with x' = rms_norm(x)."""
    gate, up = torch.mv(gate_up, _normed(hidden, norm, epsilon)).chunk(2)
    return F.silu(gate).mul_(up)


def add_linear(hidden: Tensor, x: Tensor, weight: Tensor) -> None:
    """hidden += W x."""
    hidden += torch.mv(weight, x)


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
    sizes = [kept + at + 1 for kept in lists.kept.tolist()]
    where = torch.tensor([start + size - 1 for start, size in zip(starts, sizes, strict=True)], device=qkv.device)
    lists.keys[where], lists.values[where] = new_keys.to(lists.keys.dtype), new_values.to(lists.values.dtype)
    out = torch.empty_like(query)
    steps = {after - start for start, after in pairwise(starts)}
    alike = len(set(sizes)) == 1 and len(steps) <= 1  # one call for all lists
    for heads in [slice(kv_heads)] if alike else [slice(head, head + 1) for head in range(kv_heads)]:
        first, size, apart = starts[heads.start or 0], sizes[heads.start or 0], max(steps, default=0)
        shape, strides = (query[heads].shape[0], size, dim), (apart * dim, dim, 1)
        keys, values = (pool.as_strided(shape, strides, first * dim)[None] for pool in (lists.keys, lists.values))
        out[heads] = F.scaled_dot_product_attention(query[None, heads], keys, values, scale=scaling)[0]
    return out.flatten()


def _normed(x: Tensor, norm: Tensor, epsilon: float) -> Tensor:
    return F.rms_norm(x.float(), norm.shape, eps=epsilon).to(norm.dtype) * norm
