"""The programs of attention mass: the log-sum-exp of the rows, and the mass of the keys.

The first splits the keys over programs, since a few rows alone would not fill a GPU; the program that comes last merges
the parts. In the second, a program owns a block of keys and the rows of a group of heads pass by. For "max" the largest
exponent is kept and only that one is exponentiated; heads are pooled by an atomic maximum, which gives the same result
in any order. Sums are never added atomically. Rows are packed: row 7 i + g of a block is head g of token i.
"""

# mypy: allow-untyped-defs
import triton
import triton.language as tl

NOWHERE = 2**30  # position of a key that nobody sees
_NOWHERE = tl.constexpr(NOWHERE)


@triton.jit(do_not_specialize=["rows", "keys", "split", "part_split", "lse_batch", "lse_head"])
def row_lse(
    Q, K, ROW_AT, KEY_AT, PARTS, ARRIVED, LSE, scale, rows, keys, split,
    q_batch, q_head, q_row, k_batch, k_head, k_row, at_batch, key_at_batch, part_split, lse_batch, lse_head,
    KV_HEADS: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, SPLITS_UP: tl.constexpr, SCANNED: tl.constexpr, KEY_POSITIONS: tl.constexpr,
    ORDERED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """lse[b, h, r] = log2 of the sum over visible keys j of 2^(q_hr . k_j * scale); parts [split, b, h, r] likewise."""
    batch, head = tl.program_id(2) // KV_HEADS, tl.program_id(2) % KV_HEADS
    packed = tl.program_id(0) * BM + tl.arange(0, BM)
    row, query_head = packed // GROUPS, head * GROUPS + packed % GROUPS
    real = row < rows
    dims = tl.arange(0, WIDTH)
    inside = dims < D
    at = tl.load(ROW_AT + batch * at_batch + row, mask=real, other=-1).to(tl.int32)
    offset = query_head.to(tl.int64) * q_head + row.to(tl.int64) * q_row
    Q += batch.to(tl.int64) * q_batch
    q = tl.load(Q + offset[:, None] + dims[None, :], mask=real[:, None] & inside[None, :], other=0.0)
    low = tl.program_id(1) * split
    high = tl.minimum(low + split, keys)
    if ORDERED:  # no row of the block sees a later key
        high = tl.minimum(high, tl.max(at) + 1)
    columns = tl.arange(0, BN)
    K += batch.to(tl.int64) * k_batch + head.to(tl.int64) * k_head + low.to(tl.int64) * k_row
    KEY_AT += batch * key_at_batch
    # Which keys come after some row: nearly always few, side by side. Only there is a mask worth its loads.
    earliest = tl.min(tl.where(real, at, _NOWHERE))
    first_late, last_late = tl.minimum(high, earliest + 1), high
    if KEY_POSITIONS:
        first_late, last_late = high, low - 1
        for start in tl.range(low, high, SCANNED):
            some = start + tl.arange(0, SCANNED)
            late = tl.load(KEY_AT + some, mask=some < high, other=-1) > earliest
            first_late = tl.minimum(first_late, tl.min(tl.where(late, some, high)))
            last_late = tl.maximum(last_late, tl.max(tl.where(late, some, low - 1)))
    tile = columns[:, None] * k_row + dims[None, :]
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    for start in tl.range(low, high, BN):
        left = start + columns < keys
        k = tl.load(K + tile, mask=left[:, None] & inside[None, :], other=0.0)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        if ((start + BN > first_late) & (start <= last_late)) | (start + BN > high):
            key_at = start + columns
            if KEY_POSITIONS:
                key_at = tl.load(KEY_AT + key_at, mask=left, other=_NOWHERE).to(tl.int32)
            else:
                key_at = tl.where(left, key_at, _NOWHERE)
            s = tl.where(key_at[None, :] <= at[:, None], s, float("-inf"))
        larger = tl.maximum(top, tl.max(s, 1) * scale)
        base = tl.where(larger == float("-inf"), 0.0, larger)
        total = total * tl.math.exp2(top - base) + tl.sum(tl.math.exp2(s * scale - base[:, None]), 1)
        top = larger
        K += BN * k_row
    lse = top + tl.math.log2(total)
    place = batch.to(tl.int64) * lse_batch + query_head.to(tl.int64) * lse_head + row
    if SPLITS_UP == 1:
        tl.store(LSE + place, lse, mask=real)
    else:
        splits = tl.num_programs(1)
        tl.store(PARTS + tl.program_id(1) * part_split + place, lse, mask=real)
        tl.debug_barrier()  # all threads have stored before one says so
        arrived = tl.atomic_add(ARRIVED + tl.program_id(2) * tl.num_programs(0) + tl.program_id(0), 1)
        if arrived == splits - 1:
            each = tl.arange(0, SPLITS_UP)
            some = (each < splits)[:, None] & real[None, :]
            stored = PARTS + each[:, None] * part_split + place[None, :]
            parts = tl.load(stored, mask=some, other=float("-inf"), cache_modifier=".cg")
            base = tl.maximum(tl.max(parts, 0), -1e30)  # finite where no part saw anything
            tl.store(LSE + place, base + tl.math.log2(tl.sum(tl.math.exp2(parts - base[None, :]), 0)), mask=real)


@triton.jit(do_not_specialize=["rows", "keys", "lse_batch", "lse_head", "run_batch", "run_head"])
def mass(
    Q, K, ROW_AT, KEY_AT, LSE, FROM, RUNNING, OUT, scale, lse_scale, rows, keys,
    q_batch, q_head, q_row, k_batch, k_head, k_row, at_batch, key_at_batch,
    lse_batch, lse_head, lse_row, run_batch, run_head,
    KV_HEADS: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, KEY_POSITIONS: tl.constexpr, SCATTER: tl.constexpr, MANY: tl.constexpr,
    POOL: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out[b, h, j] = sum or max over the group's heads and the rows that see key j of 2^(q . k_j * scale - lse).

    MANY: rows ascend; FROM [B, 2, blocks] holds the first one that sees a block's first key, and its last.
    POOL: the maximum over all heads, in an `out` of zeros seen as int32. SCATTER: j is the key's position.
    Nothing is less than RUNNING, which may be `out` itself.
    """
    block = tl.program_id(0) // KV_HEADS
    head = tl.program_id(0) % KV_HEADS
    out_head = 0 if POOL else head
    batch = tl.program_id(1)
    column = block * BK + tl.arange(0, BK)
    left = column < keys
    dims = tl.arange(0, WIDTH)
    inside = dims < D
    ROW_AT += batch * at_batch
    KEY_AT += batch * key_at_batch
    Q += batch.to(tl.int64) * q_batch
    K += batch.to(tl.int64) * k_batch + (block * BK).to(tl.int64) * k_row
    LSE += batch.to(tl.int64) * lse_batch
    if MANY:
        blocks = tl.num_programs(0) // KV_HEADS
        low = tl.load(FROM + batch * 2 * blocks + block) * GROUPS
        full = tl.load(FROM + (batch * 2 + 1) * blocks + block) * GROUPS
    else:
        earliest = tl.full([64], _NOWHERE, tl.int32)
        for start in tl.range(0, rows, 64):
            some = start + tl.arange(0, 64)
            at = tl.load(ROW_AT + some, mask=some < rows, other=_NOWHERE).to(tl.int32)
            earliest = tl.minimum(earliest, at)
        key_at = tl.load(KEY_AT + column, mask=left, other=-1).to(tl.int32) if KEY_POSITIONS else column
        low = 0
        full = tl.where(tl.max(key_at) <= tl.min(earliest), 0, rows * GROUPS)
    high = rows * GROUPS
    best = tl.full([BM // 16, 8, BK], 0.0 if SUM else float("-inf"), tl.float32)
    offset = tl.arange(0, BK)[:, None] * k_row + dims[None, :]
    k = tl.load(K + head.to(tl.int64) * k_head + offset, mask=left[:, None] & inside[None, :], other=0.0)
    Q += (head * GROUPS).to(tl.int64) * q_head
    LSE += (head * GROUPS).to(tl.int64) * lse_head
    for first in tl.range(low, high, BM):
        packed = first + tl.arange(0, BM)
        row, group = packed // GROUPS, packed % GROUPS
        real = row < rows
        skipped = row.to(tl.int64) * q_row if MANY else row * q_row
        q = tl.load(
            Q + (group * q_head + skipped)[:, None] + dims[None, :],
            mask=real[:, None] & inside[None, :],
            other=0.0,
        )
        place = group * lse_head + row * lse_row
        lse = tl.load(LSE + place, mask=real, other=float("-inf")).to(tl.float32) * lse_scale
        lse = tl.where(lse > -1e30, lse, float("inf"))  # a row that sees nothing pays nothing
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale - lse[:, None]
        if first < full:  # read again where it is needed: held, the positions would cost the loop its registers
            at = tl.load(ROW_AT + row, mask=real, other=-1).to(tl.int32)
            key_at = column
            if KEY_POSITIONS:
                key_at = tl.load(KEY_AT + column, mask=left, other=_NOWHERE).to(tl.int32)
            s = tl.where(key_at[None, :] <= at[:, None], s, float("-inf"))
        s = s.reshape(BM // 16, 2, 8, BK)  # rows 8 apart lie in one thread: half the registers for `best`
        best = best + tl.sum(tl.math.exp2(s), 1) if SUM else tl.maximum(best, tl.max(s, 1))
    paid = tl.sum(tl.sum(best, 0), 0) if SUM else tl.math.exp2(tl.max(tl.max(best, 0), 0))
    goal = column
    if KEY_POSITIONS:
        key_at = tl.load(KEY_AT + column, mask=left, other=0).to(tl.int32)
        if SCATTER:
            goal = key_at
        else:
            paid = tl.where(key_at < _NOWHERE, paid, 0.0)
    so_far = tl.load(RUNNING + batch.to(tl.int64) * run_batch + out_head * run_head + goal, mask=left, other=0.0)
    paid = tl.maximum(paid, so_far)
    if POOL:  # masses are not negative: as integers they have the same order
        tl.atomic_max(OUT + batch.to(tl.int64) * keys + goal, paid.to(tl.int32, bitcast=True), mask=left, sem="relaxed")
    else:
        tl.store(OUT + (batch * KV_HEADS + head).to(tl.int64) * keys + goal, paid, mask=left)
