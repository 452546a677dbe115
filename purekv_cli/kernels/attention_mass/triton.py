"""Attention mass in Triton: one pass over the keys for the log-sum-exp of the rows, one for the mass of the keys.

The first pass splits the keys over programs (a few rows alone would not fill a GPU); the second merges the partial
LSEs of its rows on the way, so that no third launch is needed. In the second, a program owns a block of keys and all
rows pass by: nothing is added atomically and the result is the same on every run. For "max" the largest exponent is
kept, and only that one is exponentiated. With few rows, the heads of a group are packed into one block of rows; with
many, rows come in the prompt's order, and a block of keys starts at the first row that sees it.
"""

# mypy: allow-untyped-defs
from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from purekv_cli.kernels.attention_mass.reduce import Reduce

_LOG2_E = 1.4426950408889634
_NOWHERE = 2**30  # position of a key that nobody sees
_MANY_ROWS = 1024  # from here on skipping what causality hides is worth more than packing heads
_MOST_SPLITS = 32


@dataclass(frozen=True, slots=True)
class Tiles:
    """Block sizes and launch options of one kernel."""

    rows: int
    keys: int
    warps: int
    stages: int


@triton.jit
def _partial_lse(s, seen, top, total, scale, MASK: tl.constexpr):
    """One more block of products s [BM, BN] in the running maximum and sum of every row, in units of log2."""
    s = s * scale
    if MASK:
        s = tl.where(seen, s, float("-inf"))
    larger = tl.maximum(top, tl.max(s, 1))
    base = tl.where(larger == float("-inf"), 0.0, larger) if MASK else larger
    total = total * tl.math.exp2(top - base) + tl.sum(tl.math.exp2(s - base[:, None]), 1)
    return larger, total


@triton.jit(do_not_specialize=["rows", "keys", "split"])
def _lse_kernel(
    Q, K, ROW_AT, KEY_AT, LSE, scale, rows, keys, split,
    q_batch, q_head, q_row, k_batch, k_head, k_row, at_batch, key_at_batch, lse_split, lse_batch, lse_head,
    KV_HEADS: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, KEY_POSITIONS: tl.constexpr, ORDERED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """lse[split, b, h, r] = log2 of the sum over the split's visible keys j of 2^(q_hr . k_j * scale)."""
    batch, head = tl.program_id(2) // KV_HEADS, tl.program_id(2) % KV_HEADS
    packed = tl.program_id(0) * BM + tl.arange(0, BM)
    real = packed < GROUPS * rows
    row = packed % rows
    query_head = head * GROUPS + packed // rows
    dims = tl.arange(0, WIDTH)
    inside = dims < D
    at = tl.load(ROW_AT + batch * at_batch + row, mask=real, other=-1).to(tl.int32)
    offset = query_head.to(tl.int64) * q_head + row.to(tl.int64) * q_row
    Q += batch.to(tl.int64) * q_batch
    q = tl.load(Q + offset[:, None] + dims[None, :], mask=real[:, None] & inside[None, :], other=0.0)
    K += batch.to(tl.int64) * k_batch + head.to(tl.int64) * k_head
    low = tl.program_id(1) * split
    high = tl.minimum(low + split, keys)
    full = low  # keys from low to here are whole blocks that every row sees
    if ORDERED:
        high = tl.minimum(high, tl.max(at) + 1)
        if not KEY_POSITIONS:
            shared = tl.minimum(high, tl.min(tl.where(real, at, 1073741824)) + 1)
            full = low + tl.maximum(shared - low, 0) // BN * BN
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    columns = tl.arange(0, BN)
    tile = K + (low + columns).to(tl.int64)[:, None] * k_row + dims[None, :]
    for _ in tl.range(low, full, BN):
        k = tl.load(tile, mask=inside[None, :], other=0.0)
        tile += BN * k_row
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        top, total = _partial_lse(s, True, top, total, scale, False)
    for start in tl.range(full, high, BN):
        left = columns < keys - start
        if KEY_POSITIONS:
            key_at = tl.load(KEY_AT + batch * key_at_batch + start + columns, mask=left, other=1073741824).to(tl.int32)
        else:
            key_at = tl.where(left, start + columns, 1073741824)
        k = tl.load(tile, mask=left[:, None] & inside[None, :], other=0.0)
        tile += BN * k_row
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        top, total = _partial_lse(s, key_at[None, :] <= at[:, None], top, total, scale, True)
    LSE += tl.program_id(1).to(tl.int64) * lse_split + batch.to(tl.int64) * lse_batch
    tl.store(LSE + query_head.to(tl.int64) * lse_head + row, top + tl.math.log2(total), mask=real)


@triton.jit
def _one_block(
    best, k, key_at, Q, ROW_AT, LSE, first, last, rows, scale, lse_scale, q_head, q_row, lse_split, lse_head, lse_row,
    inside, dims, BM: tl.constexpr, SPLITS: tl.constexpr, SPLITS_UP: tl.constexpr, SUM: tl.constexpr,
    MASK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What the rows first to first + BM - 1 (of several heads where they are packed) pay to a block of keys."""
    packed = first + tl.arange(0, BM)
    real = packed < last
    row, head = packed % rows, (packed // rows).to(tl.int64)
    offset = head * q_head + row.to(tl.int64) * q_row
    q = tl.load(Q + offset[:, None] + dims[None, :], mask=real[:, None] & inside[None, :], other=0.0)
    place = head * lse_head + row.to(tl.int64) * lse_row
    if SPLITS == 1:
        lse = tl.load(LSE + place, mask=real, other=float("-inf")).to(tl.float32) * lse_scale
    else:
        each = tl.arange(0, SPLITS_UP)
        some = (each < SPLITS)[:, None] & real[None, :]
        parts = tl.load(LSE + each.to(tl.int64)[:, None] * lse_split + place[None, :], mask=some, other=float("-inf"))
        top = tl.max(parts, 0)
        base = tl.where(top == float("-inf"), 0.0, top)
        lse = base + tl.math.log2(tl.sum(tl.math.exp2(parts - base[None, :]), 0))
    lse = tl.where(real & (lse > float("-inf")), lse, float("inf"))  # a row that sees nothing pays nothing
    s = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale - lse[None, :]
    if MASK:
        at = tl.load(ROW_AT + row, mask=real, other=-1).to(tl.int32)
        s = tl.where(key_at[:, None] <= at[None, :], s, float("-inf"))
    return best + tl.math.exp2(s) if SUM else tl.maximum(best, s)


@triton.jit(do_not_specialize=["rows", "keys"])
def _mass_kernel(
    Q, K, ROW_AT, KEY_AT, LSE, FROM, RUNNING, OUT, scale, lse_scale, rows, keys,
    q_batch, q_head, q_row, k_batch, k_head, k_row, at_batch, key_at_batch,
    lse_split, lse_batch, lse_head, lse_row, run_batch, run_head,
    KV_HEADS: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, SPLITS: tl.constexpr, SPLITS_UP: tl.constexpr,
    KEY_POSITIONS: tl.constexpr, SCATTER: tl.constexpr, MANY: tl.constexpr, POOL: tl.constexpr,
    SUM: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out[b, h, j] = sum or max over the group's heads and the rows that see key j of 2^(q . k_j * scale - lse).

    MANY: FROM [2, blocks] says from which row on a block of keys is seen in part, and by every row in full.
    POOL: over all heads. SCATTER: j is the key's position. KEEP: not less than RUNNING.
    """
    OUT_HEADS: tl.constexpr = 1 if POOL else KV_HEADS
    block = tl.program_id(0) // OUT_HEADS
    out_head = tl.program_id(0) % OUT_HEADS
    batch = tl.program_id(1)
    column = block * BK + tl.arange(0, BK)
    left = column < keys
    dims = tl.arange(0, WIDTH)
    inside = dims < D
    if KEY_POSITIONS:
        key_at = tl.load(KEY_AT + batch * key_at_batch + column, mask=left, other=1073741824).to(tl.int32)
    else:
        key_at = tl.where(left, column, 1073741824)
    ROW_AT += batch * at_batch
    Q += batch.to(tl.int64) * q_batch
    K += batch.to(tl.int64) * k_batch
    LSE += batch.to(tl.int64) * lse_batch
    best = tl.full([BK, BM], 0.0 if SUM else float("-inf"), tl.float32)
    for pooled in tl.range(0, KV_HEADS if POOL else 1):
        head = (out_head + pooled).to(tl.int64)
        offset = column.to(tl.int64)[:, None] * k_row + dims[None, :]
        k = tl.load(K + head * k_head + offset, mask=left[:, None] & inside[None, :], other=0.0)
        QH = Q + head * GROUPS * q_head
        LH = LSE + head * GROUPS * lse_head
        if MANY:
            some = tl.load(FROM + batch * 2 * tl.num_programs(0) // OUT_HEADS + block)
            every = tl.load(FROM + (batch * 2 + 1) * tl.num_programs(0) // OUT_HEADS + block)
            every = tl.minimum(some + tl.cdiv(every - some, BM) * BM, rows)
            for _ in tl.range(0, GROUPS):
                for first in tl.range(some, every, BM):
                    best = _one_block(
                        best, k, key_at, QH, ROW_AT, LH, first, rows, rows, scale, lse_scale, q_head, q_row, lse_split,
                        lse_head, lse_row, inside, dims, BM, SPLITS, SPLITS_UP, SUM, True, PRECISION,
                    )  # fmt: skip
                for first in tl.range(every, rows, BM):
                    best = _one_block(
                        best, k, key_at, QH, ROW_AT, LH, first, rows, rows, scale, lse_scale, q_head, q_row, lse_split,
                        lse_head, lse_row, inside, dims, BM, SPLITS, SPLITS_UP, SUM, False, PRECISION,
                    )  # fmt: skip
                QH += q_head
                LH += lse_head
        else:
            for first in tl.range(0, GROUPS * rows, BM):
                best = _one_block(
                    best, k, key_at, QH, ROW_AT, LH, first, GROUPS * rows, rows, scale, lse_scale, q_head, q_row,
                    lse_split, lse_head, lse_row, inside, dims, BM, SPLITS, SPLITS_UP, SUM, True, PRECISION,
                )  # fmt: skip
    mass = tl.sum(best, 1) if SUM else tl.math.exp2(tl.max(best, 1))
    if KEY_POSITIONS and not SCATTER:
        mass = tl.where(key_at < 1073741824, mass, 0.0)
    goal = key_at if SCATTER else column
    if KEEP:
        so_far = tl.load(RUNNING + batch.to(tl.int64) * run_batch + out_head * run_head + goal, mask=left, other=0.0)
        mass = tl.maximum(mass, so_far)
    OUT += (batch * OUT_HEADS + out_head).to(tl.int64) * keys
    tl.store(OUT + goal, mass, mask=left)


def default_tiles(dtype: torch.dtype, width: int, *, many: bool = False) -> tuple[Tiles, Tiles]:
    """For the LSE and the mass; within 99 KiB of shared memory, which every GPU from sm_80 on has."""
    if dtype == torch.float32:
        return Tiles(64, 32, 4, 2), Tiles(32, 64, 4, 1)
    return Tiles(128, 64, 4, 2), Tiles(64, 128, 8, 2)


def row_mass(
    query: Tensor,
    key: Tensor,
    scaling: float,
    row_positions: Tensor,
    key_positions: Tensor | None,
    lse: Tensor | None,
    reduce: Reduce,
    *,
    pool_heads: bool,
    running: Tensor | None,
    tiles: tuple[Tiles, Tiles] | None = None,
) -> Tensor:
    """See `purekv_cli.kernels.attention_mass.row_mass`; both launches are asynchronous."""
    key_at = None if key_positions is None else key_positions[None]
    return _launch(
        query, key, scaling, row_positions[None], key_at, lse, reduce, pool_heads, running, tiles, scatter=True
    )


def attention_mass(
    query: Tensor,
    key: Tensor,
    lse: Tensor | None,
    scaling: float,
    rows: Tensor,
    valid: Tensor | None,
    reduce: Reduce,
    *,
    tiles: tuple[Tiles, Tiles] | None = None,
) -> Tensor:
    """See `purekv_cli.kernels.attention_mass.attention_mass`; waits once, to learn how many rows there are."""
    heads, length, dim = query.shape[1:]
    offset = key.shape[2] - length
    at = torch.arange(length, device=query.device)
    seen = rows if valid is None else rows & valid[:, offset:]
    ends = [seen.sum(-1).amax(), torch.where(seen, at, length).amin(), torch.where(seen, at, -1).amax()]
    most, first, last = torch.stack(ends).tolist() if rows.numel() else (0, 0, -1)
    if most == 0:
        return torch.zeros(key.shape[:3], dtype=torch.float32, device=key.device)
    if last + 1 - first == most and len(query) == 1:
        query, lse = query[:, :, first : last + 1], None if lse is None else lse[:, :, first : last + 1]
        row_at = at[None, first : last + 1] + offset
    else:  # rows of their own, holes (of prompts with fewer) at the end: they see nothing
        numbers = torch.where(seen, at, length).sort(-1).values[:, :most]
        taken = numbers.clamp(max=length - 1)[:, None].expand(-1, heads, -1)
        query = query.gather(2, taken[..., None].expand(-1, -1, -1, dim))
        hole = (numbers == length)[:, None]
        lse = None if lse is None else lse.gather(2, taken).masked_fill(hole, float("-inf"))
        row_at = (numbers + offset).masked_fill(hole[:, 0], -1)
    key_at = None
    if valid is not None:
        key_at = torch.where(valid, torch.arange(key.shape[2], device=key.device), _NOWHERE)
    return _launch(query, key, scaling, row_at, key_at, lse, reduce, False, None, tiles, scatter=False)


def _launch(
    query: Tensor,
    key: Tensor,
    scaling: float,
    row_at: Tensor,
    key_at: Tensor | None,
    lse: Tensor | None,
    reduce: Reduce,
    pool: bool,
    running: Tensor | None,
    tiles: tuple[Tiles, Tiles] | None,
    *,
    scatter: bool,
) -> Tensor:
    """Both kernels. row_at [B or 1, R], ascending up to holes of -1 unless `scatter`; key_at [B or 1, M] or None."""
    batch, heads, rows, dim = query.shape
    kv_heads, keys = key.shape[1:3]
    groups, ordered = heads // kv_heads, key_at is None or not scatter
    out = torch.empty(batch, 1 if pool else kv_heads, keys, dtype=torch.float32, device=key.device)
    if rows == 0 or keys == 0:
        return out.zero_() if running is None else out.copy_(running)
    query, key = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key))
    many = rows >= _MANY_ROWS and not scatter
    width = max(16, triton.next_power_of_2(dim))
    first, second = tiles or default_tiles(query.dtype, width, many=many)
    precision = "tf32x3" if query.dtype == torch.float32 else "tf32"
    at_batch = row_at.stride(0) if len(row_at) > 1 else 0
    positions = row_at if key_at is None else key_at
    key_at_batch = positions.stride(0) if len(positions) > 1 else 0
    if lse is None:
        blocks = triton.cdiv(groups * rows, first.rows)
        splits = _splits(blocks * kv_heads * batch, triton.cdiv(keys, first.keys), query.device)
        lse = torch.empty(splits, batch, heads, rows, dtype=torch.float32, device=query.device)
        _lse_kernel[(blocks, splits, batch * kv_heads)](
            query, key, row_at, positions, lse, scaling * _LOG2_E, rows, keys,
            triton.cdiv(triton.cdiv(keys, splits), first.keys) * first.keys,
            *query.stride()[:3], *key.stride()[:3], at_batch, key_at_batch, *lse.stride()[:3],
            KV_HEADS=kv_heads, GROUPS=groups, D=dim, WIDTH=width, BM=first.rows, BN=first.keys,
            KEY_POSITIONS=key_at is not None, ORDERED=ordered, PRECISION=precision,
            num_warps=first.warps, num_stages=first.stages,
        )  # fmt: skip
        unit = 1.0
    else:
        lse, splits, unit = lse[None], 1, _LOG2_E
    blocks = triton.cdiv(keys, second.keys)
    from_row = _first_rows(row_at, second.keys, blocks, keys).expand(batch, -1, -1).contiguous() if many else row_at
    kept = out if running is None else running
    _mass_kernel[(blocks * (1 if pool else kv_heads), batch)](
        query, key, row_at, positions, lse, from_row, kept, out, scaling * _LOG2_E, unit, rows, keys,
        *query.stride()[:3], *key.stride()[:3], at_batch, key_at_batch, *lse.stride(), *kept.stride()[:2],
        KV_HEADS=kv_heads, GROUPS=groups, D=dim, WIDTH=width, BM=second.rows, BK=second.keys,
        SPLITS=splits, SPLITS_UP=triton.next_power_of_2(splits), KEY_POSITIONS=key_at is not None, SCATTER=scatter,
        MANY=many, POOL=pool, SUM=reduce == "sum", KEEP=running is not None, PRECISION=precision,
        num_warps=second.warps, num_stages=second.stages,
    )  # fmt: skip
    return out


def _first_rows(row_at: Tensor, block: int, blocks: int, keys: int) -> Tensor:
    """int32 [B or 1, 2, blocks]: the first row that sees the block's first key, and the first that sees its last."""
    rows = torch.where(row_at < 0, _NOWHERE, row_at)
    starts = torch.arange(blocks, device=row_at.device) * block
    bounds = torch.cat([starts, (starts + block - 1).clamp(max=keys - 1)]).expand(len(rows), -1).contiguous()
    return torch.searchsorted(rows, bounds).int().view(-1, 2, blocks)


def _splits(programs: int, key_blocks: int, device: torch.device) -> int:
    """Enough programs for two on every multiprocessor; a power of two, so that few variants are compiled."""
    fitting = max(1, min(2 * _multiprocessors(device) // programs, key_blocks, _MOST_SPLITS))
    return 1 << (fitting.bit_length() - 1)


@lru_cache(maxsize=16)
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 16
