"""Sparse prefill in Triton, for every GPU from sm_80 on.

A program computes one tile of queries of one head, in FlashAttention's way: scores stay on the chip, the softmax is
rescaled as its maximum grows (Dao 2023, algorithm 1). It reads whole blocks of the past without a mask, the loop that
has to be fast, then the keys that its plan packed for it with one; the other way round the compiler can't keep the
matrix products of Hopper asynchronous. There K and V come through the tensor memory accelerator (TMA), which takes
blocks that begin at any row. Query rows are gathered, outputs scattered: the order of queries costs nothing. Tiles
with the most work start first, and the heads of a group side by side, so that their keys are read from the L2 cache.
"""

# mypy: allow-untyped-defs
import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from purekv_cli.kernels.sparse_prefill.config import Config, choose
from purekv_cli.kernels.sparse_prefill.flat import flat
from purekv_cli.kernels.sparse_prefill.plan import plan
from purekv_cli.method.runs import TILE_ROWS, RunList

_LOG2_E = 1.4426950408889634


@triton.jit
def _update(acc, total, top, query, key, value, scale, seen, MASKED: tl.constexpr, PRECISION: tl.constexpr):
    """One block of keys into the running softmax, kept in powers of two: exp2 is what the hardware has."""
    score = tl.dot(query, tl.trans(key), input_precision=PRECISION)
    if MASKED:
        score = tl.where(seen, score, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, 1) * scale)
        base = tl.where(new_top == float("-inf"), 0.0, new_top)  # a row that has seen nothing yet
    else:
        new_top = tl.maximum(top, tl.max(score, 1) * scale)
        base = new_top
    weight = tl.math.exp2(score * scale - base[:, None])
    shrink = tl.math.exp2(top - base)
    total = total * shrink + tl.sum(weight, 1)
    acc = tl.dot(weight.to(value.dtype), value, acc * shrink[:, None], input_precision=PRECISION)
    return acc, total, new_top


@triton.jit(do_not_specialize=["rows_count", "tma_batch", "tma_head"])
def _kernel(
    Q, K, V, K_TMA, V_TMA, OUT, LSE,
    QUERY_ROW, QUERY_POSITION, ROW_START, HEAVIEST, BLOCK_PTR, BLOCK, REST_PTR, REST, REST_POSITION,
    scale, rows_count,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    tma_batch, tma_head, tma_column,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, DIM: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """softmax(Q K^T) V over the keys of the tile's plan.

    WIDE: DIM rounded up to a power of two. ROWS: of a query tile, BM of which this program computes. K_TMA, V_TMA:
    two-dimensional descriptors of blocks [BN, WIDE]; key j of head h lies at row batch * tma_batch + h * tma_head + j,
    column h * tma_column.
    """
    program = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    PARTS: tl.constexpr = ROWS // BM
    tile = tl.load(HEAVIEST + program // (HEADS * PARTS))
    head = program % HEADS
    part = program // HEADS % PARTS
    kv_head = head // GROUPS

    first = tl.load(ROW_START + tile) + part * BM
    end = tl.load(ROW_START + tile + 1)
    if first >= end:
        return
    place = first + tl.arange(0, BM)
    is_row = place < end
    row = tl.load(QUERY_ROW + place, mask=is_row, other=0).to(tl.int64)
    position = tl.load(QUERY_POSITION + place, mask=is_row, other=-1)
    column = tl.arange(0, WIDE)
    is_column = column < DIM
    at = Q + batch * q_batch + head.to(tl.int64) * q_head + row[:, None] * q_row + column[None, :]
    query = tl.load(at, mask=is_row[:, None] & is_column[None, :], other=0.0)

    acc = tl.zeros([BM, WIDE], tl.float32)
    total = tl.zeros([BM], tl.float32)
    top = tl.full([BM], float("-inf"), tl.float32)
    key_base = K + batch * k_batch + kv_head.to(tl.int64) * k_head
    value_base = V + batch * v_batch + kv_head.to(tl.int64) * v_head
    offset = tl.arange(0, BN)

    tma_row = (batch * tma_batch + kv_head * tma_head).to(tl.int32)
    for index in tl.range(tl.load(BLOCK_PTR + tile), tl.load(BLOCK_PTR + tile + 1)):
        start = tl.load(BLOCK + index)
        if TMA:
            key = K_TMA.load([tma_row + start, kv_head * tma_column])
            value = V_TMA.load([tma_row + start, kv_head * tma_column])
        else:
            at_key = (start + offset).to(tl.int64)
            if DIM == WIDE:
                key = tl.load(key_base + at_key[:, None] * k_row + column[None, :])
                value = tl.load(value_base + at_key[:, None] * v_row + column[None, :])
            else:
                key = tl.load(key_base + at_key[:, None] * k_row + column[None, :], mask=is_column[None, :], other=0.0)
                value = tl.load(
                    value_base + at_key[:, None] * v_row + column[None, :], mask=is_column[None, :], other=0.0
                )
        acc, total, top = _update(acc, total, top, query, key, value, scale, True, False, PRECISION)

    rest_end = tl.load(REST_PTR + tile + 1)
    for start in tl.range(tl.load(REST_PTR + tile), rest_end, BN):
        is_key = start + offset < rest_end
        at_key = tl.load(REST + start + offset, mask=is_key, other=0).to(tl.int64)
        key_position = tl.load(REST_POSITION + start + offset, mask=is_key, other=2147483647)
        inside = is_key[:, None] & is_column[None, :]
        key = tl.load(key_base + at_key[:, None] * k_row + column[None, :], mask=inside, other=0.0)
        value = tl.load(value_base + at_key[:, None] * v_row + column[None, :], mask=inside, other=0.0)
        seen = key_position[None, :] <= position[:, None]
        acc, total, top = _update(acc, total, top, query, key, value, scale, seen, True, PRECISION)

    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    written = OUT + ((batch * rows_count + row[:, None]) * HEADS + head) * DIM + column[None, :]
    tl.store(written, acc.to(OUT.dtype.element_ty), mask=is_row[:, None] & is_column[None, :])
    lse = (top + tl.math.log2(total)) * 0.6931471805599453
    tl.store(LSE + (batch * HEADS + head) * rows_count + row, lse, mask=is_row)


def sparse_prefill(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    runs: RunList,
    scaling: float,
    need_lse: bool = False,
    config: Config | None = None,
) -> tuple[Tensor, Tensor | None]:
    """See `purekv_cli.kernels.sparse_prefill.sparse_prefill`; all on one device."""
    batch, heads, rows, dim = query.shape
    config = config or choose(query.device, query.dtype, dim)
    steps = plan(runs.to(query.device), config.keys)
    query, key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
    out = query.new_empty(batch, rows, heads, dim)
    lse = torch.empty(batch, heads, rows, dtype=torch.float32, device=query.device)
    key_tma, value_tma, where = key, value, (0, 0, 0)
    if config.tma:
        laid = flat(key, value)
        block = [config.keys, triton.next_power_of_2(dim)]
        key, value, where = laid.key, laid.value, laid.where
        key_tma, value_tma = (TensorDescriptor.from_tensor(x, block) for x in (laid.key_rows, laid.value_rows))
    grid = (steps.tiles * heads * (TILE_ROWS // config.rows), batch)
    if steps.tiles:
        _kernel[grid](
            query, key, value, key_tma, value_tma, out, lse,
            steps.query_row, steps.query_position, steps.row_start, steps.heaviest,
            steps.block_ptr, steps.block, steps.rest_ptr, steps.rest, steps.rest_position,
            scaling * _LOG2_E, rows,
            *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *where,
            HEADS=heads, GROUPS=heads // key.shape[1], DIM=dim, WIDE=max(16, triton.next_power_of_2(dim)),
            ROWS=TILE_ROWS, BM=config.rows, BN=config.keys, TMA=config.tma,
            PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
            num_warps=config.warps, num_stages=config.stages,
        )  # fmt: skip
    return out.transpose(1, 2), lse if need_lse else None  # written either way: one variant less to compile
