"""Attention of a vision tower inside small windows, rotary included: the fused projection in, the heads' outputs out.

A window (64 patches in Qwen2.5-VL) fits a block of a GPU, so one kernel reads every query, key and value once, turns
them, attends and writes the result once: the layer is bound by memory, and no launch is paid per window.
"""

from torch import Tensor

from purekv_cli.kernels.window_attention import dispatch

__all__ = ["explain", "window_attention"]

explain = dispatch.explain


def window_attention(
    qkv: Tensor, cos: Tensor, sin: Tensor, starts: Tensor, longest: int, heads: int, scaling: float
) -> Tensor:
    """softmax(q k^T * scaling) v within each window, q and k rotated first; [n, heads * D].

    Args:
        qkv: [n, 3 * heads * D]: all query, all key, all value heads. n = T * S: T steps of the same S tokens.
        cos, sin: float32 [S, D], the second half of D repeats the first; the rotation is float32, then rounded.
        starts: int32 [W + 1]: where the windows of one step begin, and S.
        longest: tokens of the longest window.
    """
    return dispatch.choose(qkv, longest, heads)(qkv, cos, sin, starts, longest, heads, scaling)
