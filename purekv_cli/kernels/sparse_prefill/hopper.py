"""Sparse prefill for Hopper in Gluon, Triton's lower level: who loads, who multiplies and when is said here.

Four warps load blocks of keys and values, two groups of four multiply, 64 rows of the query tile each, as in
FlashAttention-3 (Shah et al. 2024): the product of the next scores is issued before the softmax of the present ones, so
that the tensor cores work while the exponentials are computed, and no group waits for the other. A program computes one
tile of one head.
"""

# mypy: allow-untyped-defs
import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from purekv_cli.kernels.sparse_prefill.flat import flat
from purekv_cli.kernels.sparse_prefill.plan import plan
from purekv_cli.method.runs import RunList

KEYS, STAGES = 128, 2  # keys of a block, and blocks in flight
_LOG2_E = 1.4426950408889634


@gluon.jit
def _load(
    K_TMA, V_TMA, K, V, HEAVIEST, BLOCK_PTR, BLOCK, REST_PTR, REST,
    k_batch, k_head, k_row, v_batch, v_head, v_row, tma_batch, tma_head, tma_column,
    keys, values, key_ready, key_free, value_ready, value_free,
    HEADS: gl.constexpr, GROUPS: gl.constexpr, DIM: gl.constexpr, BN: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Whole blocks through the TMA, then the packed keys row by row."""
    size: gl.constexpr = BN * DIM * 2
    spread: gl.constexpr = gl.BlockedLayout([1, 8], [32 * 8 // DIM, DIM // 8], [4, 1], [1, 0])
    offset = gl.arange(0, BN, gl.SliceLayout(1, spread))
    column = gl.arange(0, DIM, gl.SliceLayout(0, spread))
    tile = gl.load(HEAVIEST + gl.program_id(0) // HEADS)
    head = gl.program_id(0) % HEADS // GROUPS
    batch = gl.program_id(1)
    first = gl.load(BLOCK_PTR + tile)
    blocks = gl.load(BLOCK_PTR + tile + 1) - first
    tma_row = batch * tma_batch + head * tma_head
    for index in range(blocks):
        stage = index % STAGES
        phase = index // STAGES & 1
        start = tma_row + gl.load(BLOCK + first + index)
        mbarrier.wait(key_free.index(stage), phase ^ 1)
        mbarrier.expect(key_ready.index(stage), size)
        tma.async_copy_global_to_shared(K_TMA, [start, head * tma_column], key_ready.index(stage), keys.index(stage))
        mbarrier.wait(value_free.index(stage), phase ^ 1)
        mbarrier.expect(value_ready.index(stage), size)
        tma.async_copy_global_to_shared(
            V_TMA, [start, head * tma_column], value_ready.index(stage), values.index(stage)
        )
    first = gl.load(REST_PTR + tile)
    end = gl.load(REST_PTR + tile + 1)
    key_base = K + batch.to(gl.int64) * k_batch + head.to(gl.int64) * k_head
    value_base = V + batch.to(gl.int64) * v_batch + head.to(gl.int64) * v_head
    for index in range(blocks, blocks + (end - first + BN - 1) // BN):
        stage = index % STAGES
        phase = index // STAGES & 1
        at = first + (index - blocks) * BN + offset
        key = gl.load(REST + at, mask=at < end, other=0).to(gl.int64)
        mbarrier.wait(key_free.index(stage), phase ^ 1)
        async_copy.async_copy_global_to_shared(keys.index(stage), key_base + key[:, None] * k_row + column[None, :])
        async_copy.commit_group()
        mbarrier.wait(value_free.index(stage), phase ^ 1)
        async_copy.async_copy_global_to_shared(values.index(stage), value_base + key[:, None] * v_row + column[None, :])
        async_copy.commit_group()
        async_copy.wait_group(1)
        fence_async_shared()
        gl.thread_barrier()
        mbarrier.arrive(key_ready.index(stage), count=1)
        async_copy.wait_group(0)
        fence_async_shared()
        gl.thread_barrier()
        mbarrier.arrive(value_ready.index(stage), count=1)


@gluon.jit
def _step(
    acc, total, top, weight, query, keys, values, key_ready, key_free, value_ready, value_free, index, scale,
    position, key_position, MASKED: gl.constexpr, weights: gl.constexpr, output: gl.constexpr, zeros,
    STAGES: gl.constexpr,
):  # fmt: skip
    """Scores of block `index` beside the product of the weights and values of the one before, then its weights."""
    stage = index % STAGES
    before = (index - 1) % STAGES
    mbarrier.wait(key_ready.index(stage), index // STAGES & 1)
    score = warpgroup_mma(query, keys.index(stage).permute((1, 0)), zeros, use_acc=False, is_async=True)
    mbarrier.wait(value_ready.index(before), (index - 1) // STAGES & 1)
    acc = warpgroup_mma(weight, values.index(before), acc, is_async=True)
    score = warpgroup_mma_wait(1, deps=[score])
    mbarrier.arrive(key_free.index(stage), count=1)
    if MASKED:
        score = gl.where(key_position[None, :] <= position[:, None], score, float("-inf"))
    new_top = gl.maximum(top, gl.max(score, 1) * scale)
    base = new_top
    if MASKED:
        base = gl.where(new_top == float("-inf"), 0.0, new_top)  # a row that has seen nothing yet
    exps = gl.exp2(score * scale - base[:, None])
    shrink = gl.exp2(top - base)
    total = total * shrink + gl.sum(exps, 1)
    acc = warpgroup_mma_wait(0, deps=[acc])
    mbarrier.arrive(value_free.index(before), count=1)
    acc = acc * gl.convert_layout(shrink, gl.SliceLayout(1, output))[:, None]
    return acc, total, new_top, gl.convert_layout(exps.to(query.dtype), weights)


@gluon.jit
def _attend(
    PART: gl.constexpr, Q, OUT, LSE, QUERY_ROW, QUERY_POSITION, ROW_START, HEAVIEST, BLOCK_PTR, REST_PTR, REST_POSITION,
    rows_count, q_batch, q_head, q_row, scale,
    queries, keys, values, key_ready, key_free, value_ready, value_free,
    HEADS: gl.constexpr, DIM: gl.constexpr, BN: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """64 rows of queries against every block."""
    scores: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BN, 16])
    output: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, DIM, 16])
    weights: gl.constexpr = gl.DotOperandLayout(0, output, 2)
    spread: gl.constexpr = gl.BlockedLayout([1, 8], [32 * 8 // DIM, DIM // 8], [4, 1], [1, 0])
    rows: gl.constexpr = gl.SliceLayout(1, scores)
    spread_place = PART * 64 + gl.arange(0, 64, gl.SliceLayout(1, spread))
    place = PART * 64 + gl.arange(0, 64, rows)
    column = gl.arange(0, DIM, gl.SliceLayout(0, spread))
    offset = gl.arange(0, BN, gl.SliceLayout(0, scores))
    zeros = gl.zeros([64, BN], gl.float32, scores)
    tile = gl.load(HEAVIEST + gl.program_id(0) // HEADS)
    batch = gl.program_id(1).to(gl.int64)
    head = gl.program_id(0) % HEADS
    first = gl.load(ROW_START + tile)
    end = gl.load(ROW_START + tile + 1)
    blocks = gl.load(BLOCK_PTR + tile + 1) - gl.load(BLOCK_PTR + tile)
    rest_first = gl.load(REST_PTR + tile)
    rest_end = gl.load(REST_PTR + tile + 1)
    total_blocks = blocks + (rest_end - rest_first + BN - 1) // BN

    row = gl.load(QUERY_ROW + first + spread_place, mask=first + spread_place < end, other=0).to(gl.int64)
    query = queries.index(PART)
    query.store(gl.load(Q + batch * q_batch + head.to(gl.int64) * q_head + row[:, None] * q_row + column[None, :]))
    fence_async_shared()
    gl.thread_barrier()
    position = gl.load(QUERY_POSITION + first + place, mask=first + place < end, other=-1)

    # The first block goes through the mask, which lets everything pass if the block is whole.
    at = rest_first + offset
    key_position = gl.load(REST_POSITION + at, mask=(at < rest_end) & (blocks == 0), other=2147483647)
    key_position = gl.where(blocks > 0, -1, key_position)
    mbarrier.wait(key_ready.index(0), 0)
    score = warpgroup_mma(query, keys.index(0).permute((1, 0)), zeros, use_acc=False, is_async=True)
    score = warpgroup_mma_wait(0, deps=[score])
    mbarrier.arrive(key_free.index(0), count=1)
    score = gl.where(key_position[None, :] <= position[:, None], score, float("-inf"))
    top = gl.max(score, 1) * scale
    base = gl.where(top == float("-inf"), 0.0, top)
    weight = gl.exp2(score * scale - base[:, None])
    total = gl.sum(weight, 1)
    weight = gl.convert_layout(weight.to(Q.dtype.element_ty), weights)
    acc = gl.zeros([64, DIM], gl.float32, output)

    for index in range(1, blocks):
        acc, total, top, weight = _step(
            acc, total, top, weight, query, keys, values, key_ready, key_free, value_ready, value_free,
            index, scale, position, position, False, weights, output, zeros, STAGES,
        )  # fmt: skip
    for index in range(max(blocks, 1), total_blocks):
        at = rest_first + (index - blocks) * BN + offset
        key_position = gl.load(REST_POSITION + at, mask=at < rest_end, other=2147483647)
        acc, total, top, weight = _step(
            acc, total, top, weight, query, keys, values, key_ready, key_free, value_ready, value_free,
            index, scale, position, key_position, True, weights, output, zeros, STAGES,
        )  # fmt: skip
    last = total_blocks - 1
    mbarrier.wait(value_ready.index(last % STAGES), last // STAGES & 1)
    acc = warpgroup_mma(weight, values.index(last % STAGES), acc, is_async=True)
    acc = warpgroup_mma_wait(0, deps=[acc])

    scaled = acc / gl.convert_layout(gl.where(total == 0.0, 1.0, total), gl.SliceLayout(1, output))[:, None]
    query.store(scaled.to(Q.dtype.element_ty))  # read to the end: a way to a layout that is written in long runs
    gl.thread_barrier()
    written = OUT + ((batch * rows_count + row[:, None]) * HEADS + head) * DIM + column[None, :]
    gl.store(written, query.load(spread), mask=(first + spread_place < end)[:, None])
    row = gl.load(QUERY_ROW + first + place, mask=first + place < end, other=0)
    lse = LSE + (batch * HEADS + head) * rows_count + row
    gl.store(lse, (top + gl.log2(total)) * 0.6931471805599453, mask=first + place < end)


@gluon.jit(do_not_specialize=["rows_count", "tma_batch", "tma_head"])
def _kernel(
    Q, K, V, K_TMA, V_TMA, OUT, LSE,
    QUERY_ROW, QUERY_POSITION, ROW_START, HEAVIEST, BLOCK_PTR, BLOCK, REST_PTR, REST, REST_POSITION,
    scale, rows_count,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    tma_batch, tma_head, tma_column,
    HEADS: gl.constexpr, GROUPS: gl.constexpr, DIM: gl.constexpr, BN: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """softmax(Q K^T) V over the keys of the tiles' plans; arguments as in triton.py."""
    shared: gl.constexpr = K_TMA.layout
    queries = gl.allocate_shared_memory(Q.dtype.element_ty, [2, 64, DIM], shared)
    keys = gl.allocate_shared_memory(Q.dtype.element_ty, [STAGES, BN, DIM], shared)
    values = gl.allocate_shared_memory(Q.dtype.element_ty, [STAGES, BN, DIM], shared)
    key_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    key_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    value_ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    value_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(key_ready.index(stage), count=1)
        mbarrier.init(key_free.index(stage), count=2)
        mbarrier.init(value_ready.index(stage), count=1)
        mbarrier.init(value_free.index(stage), count=2)
    fence_async_shared()

    gl.warp_specialize(
        [
            (_attend, (
                0, Q, OUT, LSE, QUERY_ROW, QUERY_POSITION, ROW_START, HEAVIEST, BLOCK_PTR, REST_PTR, REST_POSITION,
                rows_count, q_batch, q_head, q_row, scale,
                queries, keys, values, key_ready, key_free, value_ready, value_free,
                HEADS, DIM, BN, STAGES,
            )),
            (_attend, (
                1, Q, OUT, LSE, QUERY_ROW, QUERY_POSITION, ROW_START, HEAVIEST, BLOCK_PTR, REST_PTR, REST_POSITION,
                rows_count, q_batch, q_head, q_row, scale,
                queries, keys, values, key_ready, key_free, value_ready, value_free,
                HEADS, DIM, BN, STAGES,
            )),
            (_load, (
                K_TMA, V_TMA, K, V, HEAVIEST, BLOCK_PTR, BLOCK, REST_PTR, REST,
                k_batch, k_head, k_row, v_batch, v_head, v_row, tma_batch, tma_head, tma_column,
                keys, values, key_ready, key_free, value_ready, value_free,
                HEADS, GROUPS, DIM, BN, STAGES,
            )),
        ],
        [4, 4],
        [232, 40],
    )  # fmt: skip


def sparse_prefill(
    query: Tensor, key: Tensor, value: Tensor, runs: RunList, scaling: float, need_lse: bool = False
) -> tuple[Tensor, Tensor | None]:
    """See `purekv_cli.kernels.sparse_prefill.sparse_prefill`; half precision, head size 64 or 128, on one device."""
    batch, heads, rows, dim = query.shape
    steps = plan(runs.to(query.device), KEYS)
    query = query if query.stride(3) == 1 else query.contiguous()
    out = query.new_empty(batch, rows, heads, dim)
    lse = torch.empty(batch, heads, rows, dtype=torch.float32, device=query.device)
    laid = flat(key, value)
    dtype = gl.bfloat16 if query.dtype == torch.bfloat16 else gl.float16
    block = [KEYS, dim]
    shared = gl.NVMMASharedLayout.get_default_for(block, dtype)
    key_tma, value_tma = (TensorDescriptor.from_tensor(x, block, shared) for x in (laid.key_rows, laid.value_rows))
    if steps.tiles:
        _kernel[(steps.tiles * heads, batch)](
            query, laid.key, laid.value, key_tma, value_tma, out, lse,
            steps.query_row, steps.query_position, steps.row_start, steps.heaviest,
            steps.block_ptr, steps.block, steps.rest_ptr, steps.rest, steps.rest_position,
            scaling * _LOG2_E, rows,
            *query.stride()[:3], *laid.key.stride()[:3], *laid.value.stride()[:3], *laid.where,
            HEADS=heads, GROUPS=heads // key.shape[1], DIM=dim, BN=KEYS, STAGES=STAGES,
            num_warps=4, maxnreg=168,
        )  # fmt: skip
    return out.transpose(1, 2), lse if need_lse else None  # written either way: one variant less to compile
