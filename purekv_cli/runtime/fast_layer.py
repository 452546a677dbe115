"""The products of one decoder layer, with the elementwise work between them fused."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from purekv_cli.kernels import fused
from purekv_cli.runtime.weights import DecoderWeights, LayerWeights

_MLP_ROWS = 16384  # tokens whose MLP is computed at once, about: bounds the memory of the widest activations

Parts = Literal["qkv", "q", "kv"]


def project(
    weights: DecoderWeights,
    layer: LayerWeights,
    normed: Tensor,
    cos: Tensor,
    sin: Tensor,
    parts: Parts,
    key_rows: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated q [1, Hq, n, D], k and v [1, Hkv, n, D] of normed tokens [n, H], or only some of the three.

    Args:
        cos, sin: [n, D].
        parts: what is computed; the others have no heads.
        key_rows: int64 [n], where every token's key and value go; None: they stay in order.
    """
    split = weights.heads * weights.head_dim
    features = {"qkv": slice(None), "q": slice(0, split), "kv": slice(split, None)}[parts]
    return fused.rotate(
        F.linear(normed, layer.qkv[features], None if layer.qkv_bias is None else layer.qkv_bias[features]),
        cos,
        sin,
        0 if parts == "kv" else weights.heads,
        0 if parts == "q" else weights.kv_heads,
        key_rows=key_rows,
        q_norm=layer.q_norm,
        k_norm=layer.k_norm,
        epsilon=weights.epsilon,
    )


def mlp(layer: LayerWeights, normed: Tensor) -> Tensor:
    """down(silu(gate) * up), [n, H], some rows at a time."""
    parts = max(1, round(len(normed) / _MLP_ROWS))
    if parts == 1:
        return F.linear(fused.silu_mul(F.linear(normed, layer.gate_up)), layer.down)
    out = torch.empty_like(normed)
    for piece, result in zip(normed.tensor_split(parts), out.tensor_split(parts), strict=True):
        torch.mm(fused.silu_mul(F.linear(piece, layer.gate_up)), layer.down.T, out=result)
    return out


def token_major(out: Tensor) -> Tensor:
    """[1, H, n, D] -> [n, H * D]; attention kernels lay it out so that nothing is copied."""
    return out.transpose(1, 2).flatten(2)[0]
