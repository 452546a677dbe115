"""Windowed attention in plain torch: windows padded to the longest, one batch of them, and a mask where they differ."""

import torch
import torch.nn.functional as F
from torch import Tensor


def window_attention(
    qkv: Tensor, cos: Tensor, sin: Tensor, starts: Tensor, longest: int, heads: int, scaling: float
) -> Tensor:
    """See `purekv_cli.kernels.window_attention.window_attention`."""
    size, dim = cos.shape
    query, key, value = qkv.view(-1, size, 3, heads, dim).unbind(2)
    query, key = (_turned(part, cos, sin) for part in (query, key))
    places = starts[:-1, None].long() + torch.arange(longest, device=qkv.device)  # [W, longest]
    inside = places < starts[1:, None]
    places = places.clamp(max=size - 1)
    # [T, W, longest, heads, D] -> [T * W, heads, longest, D]
    q, k, v = (part[:, places].flatten(0, 1).transpose(1, 2) for part in (query, key, value))
    mask = inside[:, None, None].repeat(len(value), 1, 1, 1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    out = out.transpose(1, 2).reshape(len(value), *places.shape, heads * dim)
    return out[:, inside].flatten(0, 1)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x * cos + (-x2, x1) * sin for every head, x [T, S, heads, D], in float32, rounded once."""
    wide = x.float()
    low, high = wide.chunk(2, -1)
    return (wide * cos[:, None] + torch.cat([-high, low], -1) * sin[:, None]).to(x.dtype)
