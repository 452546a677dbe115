"""The programs of attention mass: partial log-sum-exps of the rows, and the mass of the keys.

The first splits the keys over programs (a few rows alone would not fill a GPU); the second merges the partial LSEs of
its rows on the way, so that no third launch is needed. In the second, a program owns a block of keys and all rows pass
by: nothing is added atomically and the result is the same on every run. For "max" the largest exponent is kept, and
only that one is exponentiated. With few rows, the heads of a group are packed into one block of rows; with many, rows
come in the prompt's order, and a block of keys starts at the first row that sees it.
"""

# mypy: allow-untyped-defs
import triton
import triton.language as tl

NOWHERE = 2**30  # position of a key that nobody sees
_NOWHERE = tl.constexpr(NOWHERE)


@triton.jit
def _fold(s, seen, top, total, scale, MASK: tl.constexpr):
    """One more block of products s [BM, BN] in the running maximum and sum of every row, in units of log2."""
    s = s * scale
    if MASK:
        s = tl.where(seen, s, float("-inf"))
    larger = tl.maximum(top, tl.max(s, 1))
    base = tl.where(larger == float("-inf"), 0.0, larger) if MASK else larger
    total = total * tl.math.exp2(top - base) + tl.sum(tl.math.exp2(s - base[:, None]), 1)
    return larger, total


@triton.jit(do_not_specialize=["rows", "keys", "split"])
def partial_lse(
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
            shared = tl.minimum(high, tl.min(tl.where(real, at, _NOWHERE)) + 1)
            full = low + tl.maximum(shared - low, 0) // BN * BN
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    columns = tl.arange(0, BN)
    tile = K + (low + columns).to(tl.int64)[:, None] * k_row + dims[None, :]
    for _ in tl.range(low, full, BN):
        k = tl.load(tile, mask=inside[None, :], other=0.0)
        tile += BN * k_row
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        top, total = _fold(s, True, top, total, scale, False)
    for start in tl.range(full, high, BN):
        left = columns < keys - start
        if KEY_POSITIONS:
            key_at = tl.load(KEY_AT + batch * key_at_batch + start + columns, mask=left, other=_NOWHERE).to(tl.int32)
        else:
            key_at = tl.where(left, start + columns, _NOWHERE)
        k = tl.load(tile, mask=left[:, None] & inside[None, :], other=0.0)
        tile += BN * k_row
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        top, total = _fold(s, key_at[None, :] <= at[:, None], top, total, scale, True)
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
def mass(
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
        key_at = tl.load(KEY_AT + batch * key_at_batch + column, mask=left, other=_NOWHERE).to(tl.int32)
    else:
        key_at = tl.where(left, column, _NOWHERE)
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
    paid = tl.sum(best, 1) if SUM else tl.math.exp2(tl.max(best, 1))
    if KEY_POSITIONS and not SCATTER:
        paid = tl.where(key_at < _NOWHERE, paid, 0.0)
    goal = key_at if SCATTER else column
    if KEEP:
        so_far = tl.load(RUNNING + batch.to(tl.int64) * run_batch + out_head * run_head + goal, mask=left, other=0.0)
        paid = tl.maximum(paid, so_far)
    OUT += (batch * OUT_HEADS + out_head).to(tl.int64) * keys
    tl.store(OUT + goal, paid, mask=left)
