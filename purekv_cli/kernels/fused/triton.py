"""The elementwise work of a decoder layer in Triton: every tensor is read once and written once.

All arithmetic is float32; values are rounded to the tensor's dtype exactly where the reference (and transformers)
rounds them. One program norms one row; the rotary program holds the angles of a few tokens and walks over heads.
"""

# mypy: allow-untyped-defs
import torch
import triton
import triton.language as tl
from torch import Tensor

_ROTATED_TOKENS = 16  # tokens of a program of `rotate`
_ROTATED_HEADS = 12  # heads it walks over


@triton.jit
def _rms_norm(X, R, W, OUT, SUM, columns, x_row, r_row, epsilon, ADD: tl.constexpr, BLOCK: tl.constexpr):
    """OUT = (X [+ R]) / sqrt(mean square + epsilon) * W, one row a program; SUM = X + R."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < columns
    x = tl.load(X + row * x_row + at, mask=inside, other=0.0)
    if ADD:
        r = tl.load(R + row * r_row + at, mask=inside, other=0.0)
        x = (x.to(tl.float32) + r.to(tl.float32)).to(x.dtype)
        tl.store(SUM + row * columns + at, x, mask=inside)
    wide = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / columns + epsilon)
    normed = (wide * scale).to(x.dtype).to(tl.float32)
    weight = tl.load(W + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(OUT + row * columns + at, (normed * weight).to(x.dtype), mask=inside)


@triton.jit
def _silu_mul(X, OUT, columns, BLOCK: tl.constexpr):
    """OUT = silu(X[:, :columns]) * X[:, columns:]."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < columns
    gate = tl.load(X + row * 2 * columns + at, mask=inside, other=0.0)
    up = tl.load(X + row * 2 * columns + columns + at, mask=inside, other=0.0).to(tl.float32)
    wide = gate.to(tl.float32)
    activated = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype).to(tl.float32)
    tl.store(OUT + row * columns + at, (activated * up).to(gate.dtype), mask=inside)


@triton.jit
def _turn(low, high, cos_low, cos_high, sin_low, sin_high, ROUND: tl.constexpr):
    """The rotation of both halves of a head; ROUND: products and sums in the head's dtype, else float32."""
    a, b, c, d = low * cos_low, high * sin_low, high * cos_high, low * sin_high
    if ROUND is not None:
        a, b = a.to(ROUND).to(tl.float32), b.to(ROUND).to(tl.float32)
        c, d = c.to(ROUND).to(tl.float32), d.to(ROUND).to(tl.float32)
    return a - b, c + d


@triton.jit
def _head_norm(low, high, W, at, inside, DIM: tl.constexpr, HALF: tl.constexpr, dtype: tl.constexpr, epsilon):
    """RMS norm of both halves of a head."""
    squares = tl.sum(low * low, 1) + tl.sum(high * high, 1)
    scale = tl.rsqrt(squares / DIM + epsilon)[:, None]
    weight_low = tl.load(W + at, mask=inside, other=0.0).to(tl.float32)[None, :]
    weight_high = tl.load(W + HALF + at, mask=inside, other=0.0).to(tl.float32)[None, :]
    low = ((low * scale).to(dtype).to(tl.float32) * weight_low).to(dtype).to(tl.float32)
    high = ((high * scale).to(dtype).to(tl.float32) * weight_high).to(dtype).to(tl.float32)
    return low, high


@triton.jit(do_not_specialize=["tokens", "heads", "kv_heads"])
def _rotate(
    QKV,
    COS,
    SIN,
    ROWS,
    QNORM,
    KNORM,
    Q,
    K,
    V,
    tokens,
    qkv_row,
    epsilon,
    heads,
    kv_heads,
    DIM: tl.constexpr,
    MOVED: tl.constexpr,
    NORM_Q: tl.constexpr,
    NORM_K: tl.constexpr,
    ROUND: tl.constexpr,
    TOKENS: tl.constexpr,
    WALK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Rotate query and key heads of TOKENS tokens, WALK heads a program; keys and values go to their own rows."""
    HALF: tl.constexpr = DIM // 2
    dtype: tl.constexpr = QKV.dtype.element_ty
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    at = tl.arange(0, BLOCK)
    here = token < tokens
    inside = here[:, None] & (at < HALF)[None, :]
    angle = token[:, None] * DIM + at[None, :]
    cos_low = tl.load(COS + angle, mask=inside, other=0.0).to(tl.float32)
    cos_high = tl.load(COS + angle + HALF, mask=inside, other=0.0).to(tl.float32)
    sin_low = tl.load(SIN + angle, mask=inside, other=0.0).to(tl.float32)
    sin_high = tl.load(SIN + angle + HALF, mask=inside, other=0.0).to(tl.float32)
    row = token
    if MOVED:
        row = tl.load(ROWS + token, mask=here, other=0).to(tl.int64)
    first = tl.program_id(1) * WALK
    for step in range(WALK):
        head = first + step
        real = inside & (head < heads + 2 * kv_heads)
        source = QKV + token[:, None] * qkv_row + head * DIM + at[None, :]
        low = tl.load(source, mask=real, other=0.0)
        high = tl.load(source + HALF, mask=real, other=0.0)
        if head < heads:
            wide_low, wide_high = low.to(tl.float32), high.to(tl.float32)
            if NORM_Q:
                wide_low, wide_high = _head_norm(wide_low, wide_high, QNORM, at, at < HALF, DIM, HALF, dtype, epsilon)
            wide_low, wide_high = _turn(wide_low, wide_high, cos_low, cos_high, sin_low, sin_high, ROUND)
            target = Q + (token[:, None] * heads + head) * DIM + at[None, :]
            tl.store(target, wide_low.to(dtype), mask=real)
            tl.store(target + HALF, wide_high.to(dtype), mask=real)
        elif head < heads + kv_heads:
            wide_low, wide_high = low.to(tl.float32), high.to(tl.float32)
            if NORM_K:
                wide_low, wide_high = _head_norm(wide_low, wide_high, KNORM, at, at < HALF, DIM, HALF, dtype, epsilon)
            wide_low, wide_high = _turn(wide_low, wide_high, cos_low, cos_high, sin_low, sin_high, ROUND)
            target = K + ((head - heads).to(tl.int64) * tokens + row[:, None]) * DIM + at[None, :]
            tl.store(target, wide_low.to(dtype), mask=real)
            tl.store(target + HALF, wide_high.to(dtype), mask=real)
        else:
            target = V + ((head - heads - kv_heads).to(tl.int64) * tokens + row[:, None]) * DIM + at[None, :]
            tl.store(target, low, mask=real)
            tl.store(target + HALF, high, mask=real)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """See `purekv_cli.kernels.fused.rms_norm`."""
    return _norm(x, None, weight, epsilon)[0]


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """See `purekv_cli.kernels.fused.add_rms_norm`."""
    return _norm(x, residual, weight, epsilon)


def _norm(x: Tensor, residual: Tensor | None, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    rows, columns = x.shape
    x = _dense_rows(x)
    other = x if residual is None else _dense_rows(residual)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = out if residual is None else torch.empty_like(out)
    block = triton.next_power_of_2(columns)
    if rows:
        _rms_norm[(rows,)](
            x,
            other,
            weight,
            out,
            total,
            columns,
            x.stride(0),
            other.stride(0),
            epsilon,
            ADD=residual is not None,
            BLOCK=block,
            num_warps=max(1, min(16, block // 512)),
        )
    return out, total


def silu_mul(gate_up: Tensor) -> Tensor:
    """See `purekv_cli.kernels.fused.silu_mul`."""
    rows, columns = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, columns, dtype=gate_up.dtype, device=gate_up.device)
    block = min(2048, triton.next_power_of_2(columns))
    if rows:
        grid = (rows, triton.cdiv(columns, block))
        _silu_mul[grid](gate_up.contiguous(), out, columns, BLOCK=block, num_warps=max(1, min(8, block // 256)))
    return out


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
    tokens, dim = qkv.shape[0], cos.shape[-1]
    qkv, cos, sin = _dense_rows(qkv), cos.contiguous(), sin.contiguous()
    query = torch.empty(tokens, heads, dim, dtype=qkv.dtype, device=qkv.device)
    key, value = (torch.empty(kv_heads, tokens, dim, dtype=qkv.dtype, device=qkv.device) for _ in range(2))
    narrow = qkv.dtype if torch.promote_types(qkv.dtype, cos.dtype) == qkv.dtype else torch.float32
    if tokens:
        _rotate[(triton.cdiv(tokens, _ROTATED_TOKENS), triton.cdiv(heads + 2 * kv_heads, _ROTATED_HEADS))](
            qkv,
            cos,
            sin,
            qkv if key_rows is None else key_rows,
            qkv if q_norm is None else q_norm,
            qkv if k_norm is None else k_norm,
            query,
            key,
            value,
            tokens,
            qkv.stride(0),
            epsilon,
            heads,
            kv_heads,
            DIM=dim,
            MOVED=key_rows is not None,
            NORM_Q=q_norm is not None,
            NORM_K=k_norm is not None,
            ROUND={torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}.get(narrow),
            TOKENS=_ROTATED_TOKENS,
            WALK=_ROTATED_HEADS,
            BLOCK=max(16, triton.next_power_of_2(dim // 2)),
            num_warps=4,
            enable_fp_fusion=False,  # a fused multiply-add would skip the rounding of the product
        )
    return query.transpose(0, 1)[None], key[None], value[None]


def _dense_rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()
