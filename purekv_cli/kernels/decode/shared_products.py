"""The products of `products` for several sequences: a tile of the matrix is read once and used for all of them.

Every sequence's result is bitwise what it is alone. Its sums are the same columns added in the same order by the same
lanes, because each program keeps a tile of partial sums a sequence, cut like the one of a single sequence; so one more
sequence costs registers and arithmetic, and no reading. What a program computes for itself of one vector, the norm, is
made once before for several.
"""

# mypy: allow-untyped-defs, disable-error-code=assignment

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from purekv_cli.kernels.decode.chain import chained, load, prefetch


@triton.jit
def _prepare(
    x_ptr,
    norm_ptr,
    out_ptr,
    scale_ptr,
    epsilon,
    columns,
    EVEN: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """out = x norm in float32, scale = 1 / rms(x); a program a sequence."""
    if CHAINED:
        gdc_wait()
        gdc_launch_dependents()
    seat = tl.program_id(0)
    squares = tl.zeros([COLUMNS], tl.float32)
    for start in tl.range(0, columns, COLUMNS, num_stages=STAGES):
        column = start + tl.arange(0, COLUMNS)
        x = load(x_ptr + seat * columns, column, columns, EVEN)
        squares += x * x
        x *= load(norm_ptr, column, columns, EVEN).to(tl.float32)
        tl.store(out_ptr + seat * columns + column, x, mask=column < columns)
    tl.store(scale_ptr + seat, tl.rsqrt(tl.sum(squares, 0) / columns + epsilon))


@triton.jit(do_not_specialize=["rows"])
def _products(
    x_ptr,
    scale_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    rows,
    columns,
    SCALED: tl.constexpr,
    BIASED: tl.constexpr,
    GATED: tl.constexpr,
    ADDED: tl.constexpr,
    EVEN: tl.constexpr,
    SEATS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    AHEAD: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """out[s, r] (+)= (sum_c W[r, c] x[s, c]) scale[s] + bias[r]; GATED: as `products._product`."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    weight_ptr += tl.minimum(row, rows - 1).to(tl.int64)[:, None] * columns
    up_ptr = weight_ptr + rows.to(tl.int64) * columns
    if CHAINED:
        line: tl.constexpr = 1024 // weight_ptr.dtype.element_ty.primitive_bitwidth  # elements in 128 bytes
        first = tl.minimum(tl.arange(0, AHEAD * COLUMNS // line) * line, columns - 1)[None, :]
        prefetch(weight_ptr + first)
        if GATED:
            prefetch(up_ptr + first)
        gdc_wait()
        gdc_launch_dependents()
    totals = ()
    totals_up = ()
    for _ in tl.static_range(SEATS):
        totals = totals + (tl.zeros([ROWS, COLUMNS], tl.float32),)  # noqa: RUF005 - all that Triton's tuples can
        if GATED:
            totals_up = totals_up + (tl.zeros([ROWS, COLUMNS], tl.float32),)  # noqa: RUF005
    for start in tl.range(0, columns, COLUMNS, num_stages=STAGES):
        column = start + tl.arange(0, COLUMNS)
        weight = load(weight_ptr, column[None, :], columns, EVEN)
        if GATED:
            up = load(up_ptr, column[None, :], columns, EVEN)
        sums = ()
        sums_up = ()
        for seat in tl.static_range(SEATS):
            x = load(x_ptr + seat * columns, column, columns, EVEN).to(tl.float32)
            sums = sums + (totals[seat] + weight.to(tl.float32) * x[None, :],)  # noqa: RUF005
            if GATED:
                sums_up = sums_up + (totals_up[seat] + up.to(tl.float32) * x[None, :],)  # noqa: RUF005
        totals = sums
        totals_up = sums_up
    for seat in tl.static_range(SEATS):
        out = tl.sum(totals[seat], 1)
        if SCALED:
            scale = tl.load(scale_ptr + seat)
            out *= scale
        if BIASED:
            out += tl.load(bias_ptr + row, mask=inside, other=0.0).to(tl.float32)
        if GATED:
            other = tl.sum(totals_up[seat], 1)
            if SCALED:
                other *= scale
            out = out / (1.0 + tl.exp(-out)) * other
        place = out_ptr + seat * rows.to(tl.int64) + row
        if ADDED:
            out += tl.load(place, mask=inside, other=0.0)
        tl.store(place, out.to(out_ptr.dtype.element_ty), mask=inside)


def launch(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    columns: int,
    *,
    norm: Tensor | None,
    epsilon: float,
    bias: Tensor | None,
    gated: bool,
    added: bool,
) -> Tensor:
    """As `products.launch`, for more than one sequence.

    Args:
        x: [S, columns of the matrix].
        out: [S, rows].
        columns: of a tile, as for one sequence.
    """
    seats, size, rows = x.shape[0], weight.shape[1], out.shape[1]
    even, chain = size % columns == 0, chained(weight.device)
    scale = x
    if norm is not None:
        normed = torch.empty_like(x, dtype=torch.float32)
        scale = torch.empty(seats, dtype=torch.float32, device=x.device)
        _prepare[(seats,)](
            x, norm, normed, scale, epsilon, size, EVEN=even, COLUMNS=columns, STAGES=8, num_warps=4, **chain
        )
        x = normed
    each = _rows(seats, columns, gated)
    _products[(triton.cdiv(rows, each),)](
        x,
        scale,
        weight,
        bias if bias is not None else x,
        out,
        rows,
        size,
        SCALED=norm is not None,
        BIASED=bias is not None,
        GATED=gated,
        ADDED=added,
        EVEN=even,
        SEATS=seats,
        ROWS=each,
        COLUMNS=columns,
        STAGES=4,
        AHEAD=2,
        num_warps=4,
        **chain,
    )
    return out


def _rows(seats: int, columns: int, gated: bool) -> int:
    """Of the matrix, per program: partial sums fill half of the registers, so two programs or more share a processor.

    Never fewer than leave a row's columns to the lanes that sum them up for one sequence.
    """
    sums = seats * columns * (2 if gated else 1)
    most = max(1, 128 * 128 // sums)  # 128 threads with 128 sums each
    return min(8, max(4 if columns == 256 else 2, 1 << (most.bit_length() - 1)))
