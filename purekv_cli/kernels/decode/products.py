"""Matrix-vector products: a step reads every weight once, so they are the step, and bytes a second are all that counts.

One program owns a few rows of the matrix and reads the whole vector. What comes before and after a product is done
where the vector passes by anyway: the RMS norm (its scale is one number, applied to the sums at the end), the bias,
SwiGLU, the addition to the residual stream, which is kept in float32.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tile:
    """How a product is cut."""

    rows: int  # of the matrix, per program
    columns: int  # per step of its loop
    warps: int
    stages: int  # of loads in flight


@triton.jit
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
    STAGES: tl.constexpr,
):
    """out[r] (+)= (sum_c W[r, c] x[c] norm[c]) / rms(x) + bias[r]; GATED: silu of that times the same of row r + rows."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    at = tl.minimum(row, rows - 1).to(tl.int64)[:, None] * columns
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    other = tl.zeros([ROWS, COLUMNS], tl.float32)
    squares = tl.zeros([COLUMNS], tl.float32)
    for start in tl.range(0, columns, COLUMNS, num_stages=STAGES):
        column = start + tl.arange(0, COLUMNS)
        if EVEN:
            weight = tl.load(weight_ptr + at + column[None, :])
            x = tl.load(x_ptr + column).to(tl.float32)
        else:
            real = column < columns
            weight = tl.load(weight_ptr + at + column[None, :], mask=real[None, :], other=0.0)
            x = tl.load(x_ptr + column, mask=real, other=0.0).to(tl.float32)
        if NORMED:
            squares += x * x
            if EVEN:
                x *= tl.load(norm_ptr + column).to(tl.float32)
            else:
                x *= tl.load(norm_ptr + column, mask=real, other=0.0).to(tl.float32)
        total += weight.to(tl.float32) * x[None, :]
        if GATED:
            up_ptr = weight_ptr + rows.to(tl.int64) * columns
            if EVEN:
                up = tl.load(up_ptr + at + column[None, :])
            else:
                up = tl.load(up_ptr + at + column[None, :], mask=real[None, :], other=0.0)
            other += up.to(tl.float32) * x[None, :]
    out = tl.sum(total, 1)
    if NORMED:
        scale = tl.rsqrt(tl.sum(squares, 0) / columns + epsilon)
        out *= scale
    if BIASED:
        out += tl.load(bias_ptr + row, mask=inside, other=0.0).to(tl.float32)
    if GATED:
        up = tl.sum(other, 1)
        if NORMED:
            up *= scale
        out = out / (1.0 + tl.exp(-out)) * up
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
    tile: Tile | None = None,
) -> Tensor:
    rows, columns = out.shape[0], weight.shape[1]
    tile = tile or tile_for(rows, columns, gated)
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
        STAGES=tile.stages,
        num_warps=tile.warps,
    )
    return out


def tile_for(rows: int, columns: int, gated: bool) -> Tile:
    """What measured best on an H200."""
    return Tile(4, 512, 4, 3) if not gated else Tile(4, 512, 4, 2)


def norm_linear(hidden: Tensor, norm: Tensor, epsilon: float, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W rms_norm(x) + b, in the weight's dtype."""
    return _launch(hidden, weight, weight.new_empty(weight.shape[0]), norm=norm, epsilon=epsilon, bias=bias)


def norm_gated(hidden: Tensor, norm: Tensor, epsilon: float, gate_up: Tensor) -> Tensor:
    """silu(gate x') * (up x') with x' = rms_norm(x)."""
    out = gate_up.new_empty(gate_up.shape[0] // 2)
    return _launch(hidden, gate_up, out, norm=norm, epsilon=epsilon, gated=True)


def add_linear(hidden: Tensor, x: Tensor, weight: Tensor) -> None:
    """hidden += W x."""
    _launch(x, weight, hidden, added=True)


def logits(hidden: Tensor, norm: Tensor, epsilon: float, weight: Tensor) -> Tensor:
    """W rms_norm(x) in float32."""
    out = torch.empty(weight.shape[0], dtype=torch.float32, device=weight.device)
    return _launch(hidden, weight, out, norm=norm, epsilon=epsilon)
