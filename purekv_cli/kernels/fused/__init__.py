"""The elementwise work of a decoder layer, each step in one pass over memory: norms, SwiGLU, rotary with its layout.

Stock models spend a fifth of a long prefill on it, in a dozen kernels a layer that read and write the same tensors.
Results are rounded where transformers rounds them, so that half precision stays as close to the stock model as a
different order of float32 sums allows.
"""

from torch import Tensor

from purekv_cli.kernels.fused import dispatch

__all__ = ["add_rms_norm", "explain", "rms_norm", "rotate", "silu_mul"]

explain = dispatch.explain


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension, [n, H]; the norm in float32."""
    return dispatch.choose(x).rms_norm(x, weight, epsilon)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """rms_norm(residual + x) and the sum itself, rounded to the dtype before it is normed; both [n, H]."""
    return dispatch.choose(x).add_rms_norm(x, residual, weight, epsilon)


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, [n, I], from gate and up side by side, [n, 2 I]."""
    return dispatch.choose(gate_up).silu_mul(gate_up)


def rotate(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    heads: int,
    kv_heads: int,
    *,
    key_rows: Tensor | None = None,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    epsilon: float = 1e-6,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys rotated, all three laid out for attention.

    Args:
        qkv: [n, (heads + 2 kv_heads) * D]: all query heads, all key heads, all value heads; D even.
        cos, sin: [n, D]; the rotation is computed and rounded in the wider of their dtype and qkv's.
        heads: query heads; 0 if there are none in `qkv`.
        kv_heads: key heads and value heads; 0 likewise.
        key_rows: int64 [n], a permutation: token i's key and value go to row key_rows[i]; None: to row i.
        q_norm, k_norm: [D], RMS norm of every head before its rotation (Qwen3); None: none.

    Returns:
        query [1, heads, n, D], a view of token-major memory; key, value [1, kv_heads, n, D], head-major.
    """
    return dispatch.choose(qkv).rotate(qkv, cos, sin, heads, kv_heads, key_rows, q_norm, k_norm, epsilon)
