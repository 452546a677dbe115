"""One decode step in plain torch: the truth that the kernels are held to, and what runs on a CPU.

Sequences go one after the other: on several at once a CPU rounds differently, in products and even in exponentials.
"""

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from purekv_cli.kernels.decode.lists import Lists


def embed(table: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
    """Rows tokens[step] of the table in float32."""
    return table.index_select(0, tokens.index_select(0, step)[0]).float()


def norm_linear(hidden: Tensor, norm: Tensor, epsilon: float, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W rms_norm(x) + b, in the weight's dtype."""
    rows = [_normed(x, norm, epsilon) for x in _each(hidden)]
    return torch.stack([torch.mv(weight, x) if bias is None else torch.addmv(bias, weight, x) for x in rows])


def norm_gated(hidden: Tensor, norm: Tensor, epsilon: float, gate_up: Tensor) -> Tensor:
    """silu(gate x') * (up x') with x' = rms_norm(x)."""
    parts = [torch.mv(gate_up, _normed(x, norm, epsilon)).chunk(2) for x in _each(hidden)]
    return torch.stack([F.silu(gate).mul_(up) for gate, up in parts])


def add_linear(hidden: Tensor, x: Tensor, weight: Tensor) -> None:
    """hidden += W x."""
    hidden += torch.stack([torch.mv(weight, row) for row in _each(x)])


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
    each = (Lists(lists.keys, lists.values, *places) for places in zip(lists.start, lists.kept, strict=True))
    rows = zip(_each(qkv), each, cos, sin, strict=True)
    return torch.stack([_attend(one, own, step, c, s, norms, epsilon, scaling) for one, own, c, s in rows])


def _attend(
    qkv: Tensor,
    lists: Lists,
    step: Tensor,
    cos: Tensor,
    sin: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    epsilon: float,
    scaling: float,
) -> Tensor:
    """Of one sequence: qkv [(Hq + 2 Hkv) * D], lists of [Hkv], cos and sin [steps, D]."""
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


def _each(rows: Tensor) -> Iterable[Tensor]:
    """Every row, at an address as even as that of a vector alone: rounding depends on that, too."""
    return rows if len(rows) == 1 else [row.clone() for row in rows]
