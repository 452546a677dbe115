"""Matrix-vector products: a step reads every weight once, so they are the step, and bytes a second are all that counts.

One program owns a few rows of the matrix and reads the whole vector. What comes before and after a product is done
where the vector passes by anyway: the RMS norm (its scale is one number, applied to the sums at the end), the bias,
SwiGLU, the addition to the residual stream, which is kept in float32. Several vectors go to `shared_products`.
"""

# mypy: allow-untyped-defs

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from purekv_cli.kernels.decode import shared_products
from purekv_cli.kernels.decode.chain import chained, load


@dataclass(frozen=True, slots=True)
class Tile:
    """How a product is cut."""

    rows: int  # of the matrix, per program
    columns: int  # per step of its loop
    warps: int


@triton.jit(do_not_specialize=["rows"])
def _product(
    x_ptr,
    norm_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    epsilon,
    rows,
    columns,
    NORMED: tl.constexpr,
    BIASED: tl.constexpr,
    GATED: tl.constexpr,
    ADDED: tl.constexpr,
    EVEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """out[r] (+)= (sum_c W[r, c] x[c] norm[c]) / rms(x) + bias[r]; GATED: silu of that, times the same of row r + rows.

    The next weights are on their way while these are used, the first of them (CHAINED) while the kernel before is still
    at work; so the compiler needn't pipeline the loop.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    weight_ptr += tl.minimum(row, rows - 1).to(tl.int64)[:, None] * columns
    up_ptr = weight_ptr + rows.to(tl.int64) * columns
    column = tl.arange(0, COLUMNS)
    weight = load(weight_ptr, column[None, :], columns, EVEN)
    if GATED:
        up = load(up_ptr, column[None, :], columns, EVEN)
    if CHAINED:
        gdc_wait()
        gdc_launch_dependents()
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    total_up = tl.zeros([ROWS, COLUMNS], tl.float32)
    squares = tl.zeros([COLUMNS], tl.float32)
    for start in tl.range(0, columns, COLUMNS, num_stages=1):
        column = start + tl.arange(0, COLUMNS)
        following = (column + COLUMNS)[None, :]
        more = (following < columns) & inside[:, None]
        next_weight = tl.load(weight_ptr + following, mask=more, other=0.0)
        x = load(x_ptr, column, columns, EVEN).to(tl.float32)
        if NORMED:
            squares += x * x
            x *= load(norm_ptr, column, columns, EVEN).to(tl.float32)
        total += weight.to(tl.float32) * x[None, :]
        weight = next_weight
        if GATED:
            next_up = tl.load(up_ptr + following, mask=more, other=0.0)
            total_up += up.to(tl.float32) * x[None, :]
            up = next_up
    out = tl.sum(total, 1)
    if NORMED:
        scale = tl.rsqrt(tl.sum(squares, 0) / columns + epsilon)
        out *= scale
    if BIASED:
        out += tl.load(bias_ptr + row, mask=inside, other=0.0).to(tl.float32)
    if GATED:
        other = tl.sum(total_up, 1)
        if NORMED:
            other *= scale
        out = out / (1.0 + tl.exp(-out)) * other
    if ADDED:
        out += tl.load(out_ptr + row, mask=inside, other=0.0)
    tl.store(out_ptr + row, out.to(out_ptr.dtype.element_ty), mask=inside)


def _launch(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    norm: Tensor | None = None,
    epsilon: float = 0.0,
    bias: Tensor | None = None,
    gated: bool = False,
    added: bool = False,
) -> Tensor:
    rows, columns = out.shape[1], weight.shape[1]
    tile = tile_for(normed=norm is not None)
    if x.shape[0] > 1:
        return shared_products.launch(
            x, weight, out, tile.columns, norm=norm, epsilon=epsilon, bias=bias, gated=gated, added=added
        )
    _product[(triton.cdiv(rows, tile.rows),)](
        x,
        norm if norm is not None else x,
        weight,
        bias if bias is not None else x,
        out,
        epsilon,
        rows,
        columns,
        NORMED=norm is not None,
        BIASED=bias is not None,
        GATED=gated,
        ADDED=added,
        EVEN=columns % tile.columns == 0,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        num_warps=tile.warps,
        **chained(weight.device),
    )
    return out


def tile_for(*, normed: bool) -> Tile:
    """What measured best on an H200 for the shapes of a 7B model."""
    return Tile(8, 256, 4) if normed else Tile(4, 512, 4)


def norm_linear(hidden: Tensor, norm: Tensor, epsilon: float, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W rms_norm(x) + b, in the weight's dtype."""
    return _launch(
        hidden, weight, weight.new_empty(len(hidden), weight.shape[0]), norm=norm, epsilon=epsilon, bias=bias
    )


def norm_gated(hidden: Tensor, norm: Tensor, epsilon: float, gate_up: Tensor) -> Tensor:
    """silu(gate x') * (up x') with x' = rms_norm(x)."""
    out = gate_up.new_empty(len(hidden), gate_up.shape[0] // 2)
    return _launch(hidden, gate_up, out, norm=norm, epsilon=epsilon, gated=True)


def add_linear(hidden: Tensor, x: Tensor, weight: Tensor) -> None:
    """hidden += W x."""
    _launch(x, weight, hidden, added=True)


def logits(hidden: Tensor, norm: Tensor, epsilon: float, weight: Tensor) -> Tensor:
    """W rms_norm(x) in float32."""
    out = torch.empty(len(hidden), weight.shape[0], dtype=torch.float32, device=weight.device)
    return _launch(hidden, weight, out, norm=norm, epsilon=epsilon)


@triton.jit
def _embed(table_ptr, tokens_ptr, step_ptr, out_ptr, size, BLOCK: tl.constexpr, CHAINED: tl.constexpr):
    """out[s] = table[tokens[step, s]]."""
    if CHAINED:
        gdc_wait()
        gdc_launch_dependents()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    seat = tl.program_id(1)
    token = tl.load(tokens_ptr + tl.load(step_ptr) * tl.num_programs(1) + seat)
    row = tl.load(table_ptr + token * size + at, mask=at < size, other=0.0)
    tl.store(out_ptr + seat * size + at, row.to(tl.float32), mask=at < size)


def embed(table: Tensor, tokens: Tensor, step: Tensor) -> Tensor:
    """Rows tokens[step] of the table in float32."""
    seats, size = tokens.shape[1], table.shape[1]
    out = torch.empty(seats, size, dtype=torch.float32, device=table.device)
    grid = (triton.cdiv(size, 1024), seats)
    _embed[grid](table, tokens, step, out, size, BLOCK=1024, num_warps=4, **chained(table.device))
    return out
