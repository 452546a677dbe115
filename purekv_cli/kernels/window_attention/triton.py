"""Windowed attention in Triton: one program a window and head, everything of it on chip.

The head is read as two halves, so that the rotation needs no shuffle; each is padded to a power of two by masked loads,
which costs no memory traffic, and memory is what bounds this kernel.
"""

# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor


def window_attention(
    qkv: Tensor, cos: Tensor, sin: Tensor, starts: Tensor, longest: int, heads: int, scaling: float
) -> Tensor:
    """See `purekv_cli.kernels.window_attention.window_attention`."""
    qkv, cos, sin = qkv.contiguous(), cos.contiguous(), sin.contiguous()
    size, dim = cos.shape
    windows = len(starts) - 1
    out = qkv.new_empty(len(qkv), heads * dim)
    block = max(16, triton.next_power_of_2(longest))
    with torch.cuda.device_of(qkv):
        _window_attention[(len(qkv) // size * windows * heads,)](
            qkv,
            cos,
            sin,
            starts,
            out,
            size,
            windows,
            scaling * 1.4426950408889634,
            HEADS=heads,
            HALF=dim // 2,
            BLOCK=block,
            WIDE=max(16, triton.next_power_of_2(dim // 2)),
            EXACT=qkv.dtype == torch.float32,
            num_warps=4 if block <= 64 else 8,
            num_stages=1,
        )
    return out


@triton.jit(do_not_specialize=["size", "windows"])
def _window_attention(
    qkv,
    cos,
    sin,
    starts,
    out,
    size,
    windows,
    scaling,  # times log2(e)
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
    EXACT: tl.constexpr,
):
    program = tl.program_id(0)
    head = program % HEADS  # heads fastest: neighbours read the same rows
    window = program // HEADS % windows
    step = (program // HEADS // windows).to(tl.int64)
    first = tl.load(starts + window)
    count = tl.load(starts + window + 1) - first
    row, column = tl.arange(0, BLOCK), tl.arange(0, WIDE)
    held = (row < count)[:, None] & (column < HALF)[None, :]
    angle = (first + row)[:, None] * (2 * HALF) + column[None, :]
    c = tl.load(cos + angle, mask=held, other=0.0)
    s = tl.load(sin + angle, mask=held, other=0.0)
    token = step * size + first + row
    at = token[:, None] * (3 * HEADS * 2 * HALF) + head * (2 * HALF) + column[None, :]
    q1, q2 = _turned(qkv + at, c, s, held, HALF)
    k1, k2 = _turned(qkv + at + HEADS * 2 * HALF, c, s, held, HALF)
    v1 = tl.load(qkv + at + 2 * HEADS * 2 * HALF, mask=held, other=0.0)
    v2 = tl.load(qkv + at + 2 * HEADS * 2 * HALF + HALF, mask=held, other=0.0)
    precision: tl.constexpr = "ieee" if EXACT else "tf32"
    scores = tl.dot(q1, tl.trans(k1), input_precision=precision)
    scores = tl.dot(q2, tl.trans(k2), scores, input_precision=precision) * scaling
    scores = tl.where((row < count)[None, :], scores, float("-inf"))
    weight = tl.exp2(scores - tl.max(scores, 1)[:, None])
    total = tl.sum(weight, 1)[:, None]
    weight = weight.to(v1.dtype)
    o1 = tl.dot(weight, v1, input_precision=precision) / total
    o2 = tl.dot(weight, v2, input_precision=precision) / total
    to = token[:, None] * (HEADS * 2 * HALF) + head * (2 * HALF) + column[None, :]
    tl.store(out + to, o1.to(out.dtype.element_ty), mask=held)
    tl.store(out + to + HALF, o2.to(out.dtype.element_ty), mask=held)


@triton.jit
def _turned(at, c, s, held, HALF: tl.constexpr):
    low = tl.load(at, mask=held, other=0.0)
    high = tl.load(at + HALF, mask=held, other=0.0)
    kind = low.dtype
    low, high = low.to(tl.float32), high.to(tl.float32)
    return (low * c - high * s).to(kind), (high * c + low * s).to(kind)
