"""The elementwise work of a decoder layer in plain torch, rounded where transformers rounds."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) in float32, cast, times weight."""
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return weight * scaled.to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """See `purekv_cli.kernels.fused.add_rms_norm`."""
    total = residual + x
    return rms_norm(total, weight, epsilon), total


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, the gate rounded to the dtype before the product."""
    gate, up = gate_up.chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


def rotate(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    heads: int,
    kv_heads: int,
    key_rows: Tensor | None,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `purekv_cli.kernels.fused.rotate`."""
    rows, dim = qkv.shape[0], cos.shape[-1]
    query, key, value = qkv.view(rows, -1, dim).split([heads, kv_heads, kv_heads], 1)
    query, key = (_turned(part, cos, sin, norm, epsilon) for part, norm in ((query, q_norm), (key, k_norm)))
    key, value = key.transpose(0, 1), value.transpose(0, 1)
    if key_rows is None:
        moved = [part.contiguous() for part in (key, value)]
    else:
        moved = [torch.empty_like(part, memory_format=torch.contiguous_format) for part in (key, value)]
        for whole, part in zip(moved, (key, value), strict=True):
            whole[:, key_rows] = part
    return query.transpose(0, 1)[None], moved[0][None], moved[1][None]


def _turned(x: Tensor, cos: Tensor, sin: Tensor, norm: Tensor | None, epsilon: float) -> Tensor:
    """x * cos + (-x2, x1) * sin for every head, x [n, heads, D]; products and sum rounded to the wider dtype."""
    if norm is not None:
        x = rms_norm(x, norm, epsilon)
    low, high = x.chunk(2, -1)
    turned = x * cos[:, None] + torch.cat([-high, low], -1) * sin[:, None]
    return turned.to(x.dtype)
