"""One token's attention over lists of different lengths, split over the keys (flash decoding).

A program takes one KV head of one sequence and one part of its list; the query heads of the group are the rows of one
tile, so K and V are read once. Every program rotates the group's queries itself (a few hundred numbers); the first of a
head also rotates the new key, appends key and value, and counts them from registers, so no program waits for another.
How many parts are used follows from the list's length on the device: the grid depends on nothing but how many lists
there are, and other lists change nothing for a list. A second kernel merges the parts.
"""

# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from purekv_cli.kernels.decode.chain import chained, prefetch
from purekv_cli.kernels.decode.lists import Lists

_LEAST = 64  # keys that are worth a program of their own


@triton.jit
def _part(kept, CUTS: tl.constexpr, LEAST: tl.constexpr):
    """Keys of one part."""
    return tl.maximum(tl.cdiv(tl.cdiv(kept, CUTS), LEAST) * LEAST, LEAST)


@triton.jit
def _turned(
    ptr, rows, live, cos_ptr, sin_ptr, norm_ptr, epsilon, NORMED: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr
):
    """Rows of vectors, normed if asked, rotated: x cos + rotate_half(x) sin, in float32."""
    d = tl.arange(0, WIDE)
    half = D // 2
    other = tl.where(d < half, d + half, d - half)
    inside = d < D
    seen = live[:, None] & inside[None, :]
    x = tl.load(ptr + rows[:, None] * D + d[None, :], mask=seen, other=0.0).to(tl.float32)
    y = tl.load(ptr + rows[:, None] * D + other[None, :], mask=seen, other=0.0).to(tl.float32)
    if NORMED:
        scale = tl.rsqrt(tl.sum(x * x, 1) / D + epsilon)[:, None]
        x *= scale * tl.load(norm_ptr + d, mask=inside, other=0.0).to(tl.float32)[None, :]
        y *= scale * tl.load(norm_ptr + other, mask=inside, other=0.0).to(tl.float32)[None, :]
    cos = tl.load(cos_ptr + d, mask=inside, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + d, mask=inside, other=0.0).to(tl.float32)
    return x * cos[None, :] + y * tl.where(d < half, -sin, sin)[None, :]


@triton.jit
def _attend(
    qkv_ptr,
    keys_ptr,
    values_ptr,
    start_ptr,
    kept_ptr,
    step_ptr,
    cos_ptr,
    sin_ptr,
    q_norm_ptr,
    k_norm_ptr,
    sums_ptr,
    tops_ptr,
    epsilon,
    scaling,
    angles,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    WIDE: tl.constexpr,
    GROUP: tl.constexpr,
    KEYS: tl.constexpr,
    CUTS: tl.constexpr,
    LEAST: tl.constexpr,
    NORMED: tl.constexpr,
    STAGES: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """Unnormalised output [head, cut, D] and (largest score in log2 units, sum) [head, cut, 2] of each part."""
    own = tl.program_id(0)  # the list
    seat = own // KV_HEADS
    head = own % KV_HEADS
    cut = tl.program_id(1)
    step = tl.load(step_ptr)
    kept = (tl.load(kept_ptr + own) + step).to(tl.int32)
    part = _part(kept, CUTS, LEAST)
    first = cut * part
    base = tl.load(start_ptr + own)
    kind: tl.constexpr = keys_ptr.dtype.element_ty
    if CHAINED:
        line: tl.constexpr = 1024 // kind.primitive_bitwidth  # elements in 128 bytes
        ahead = first * D + tl.arange(0, LEAST * WIDE // line) * line
        ahead = base * D + tl.minimum(ahead, kept * D)
        prefetch(keys_ptr + ahead)
        prefetch(values_ptr + ahead)
        gdc_wait()
        gdc_launch_dependents()
    if (first < kept) | (cut == 0):
        last = tl.minimum(first + part, kept)
        groups: tl.constexpr = HEADS // KV_HEADS
        g = tl.arange(0, GROUP)
        d = tl.arange(0, WIDE)
        inside = d < D
        rows = head * groups + g
        at = seat * angles + step * D
        qkv_ptr += seat * (HEADS + 2 * KV_HEADS) * D
        query = _turned(qkv_ptr, rows, g < groups, cos_ptr + at, sin_ptr + at, q_norm_ptr, epsilon, NORMED, D, WIDE).to(
            kind
        )
        top = tl.full([GROUP], float("-inf"), tl.float32)
        total = tl.zeros([GROUP], tl.float32)
        sums = tl.zeros([GROUP, WIDE], tl.float32)
        if cut == 0:
            one = tl.arange(0, 1)
            key = _turned(
                qkv_ptr, HEADS + head + one, one == 0, cos_ptr + at, sin_ptr + at, k_norm_ptr, epsilon, NORMED, D, WIDE
            ).to(kind)
            value = tl.load(qkv_ptr + (HEADS + KV_HEADS + head) * D + d, mask=inside, other=0.0).to(kind)
            new = (base + kept) * D + d
            tl.store(keys_ptr + new[None, :], key, mask=inside[None, :])
            tl.store(values_ptr + new, value, mask=inside)
            top = tl.sum(query.to(tl.float32) * key.to(tl.float32), 1) * scaling
            total += 1.0
            sums += value.to(tl.float32)[None, :]
        for low in tl.range(first, last, KEYS, num_stages=STAGES):
            n = low + tl.arange(0, KEYS)
            seen = n < last
            where = (base + n) * D
            keys = tl.load(keys_ptr + where[None, :] + d[:, None], mask=seen[None, :] & inside[:, None], other=0.0)
            score = tl.dot(query, keys, input_precision="ieee") * scaling
            score = tl.where(seen[None, :], score, float("-inf"))
            higher = tl.maximum(top, tl.max(score, 1))
            weight = tl.exp2(score - higher[:, None])
            shrink = tl.exp2(top - higher)
            total = total * shrink + tl.sum(weight, 1)
            values = tl.load(values_ptr + where[:, None] + d[None, :], mask=seen[:, None] & inside[None, :], other=0.0)
            sums = sums * shrink[:, None] + tl.dot(weight.to(kind), values, input_precision="ieee")
            top = higher
        live = g < groups
        place = (seat * HEADS + rows) * CUTS + cut
        tl.store(sums_ptr + place[:, None] * D + d[None, :], sums, mask=live[:, None] & inside[None, :])
        tl.store(tops_ptr + place * 2, top, mask=live)
        tl.store(tops_ptr + place * 2 + 1, total, mask=live)


@triton.jit
def _merge(
    sums_ptr,
    tops_ptr,
    kept_ptr,
    step_ptr,
    out_ptr,
    GROUPS: tl.constexpr,
    D: tl.constexpr,
    WIDE: tl.constexpr,
    CUTS: tl.constexpr,
    SLOTS: tl.constexpr,
    LEAST: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """out = sum over parts of 2^(top - highest) sums, over the same of the totals; WIDE numbers of a head a program."""
    head = tl.program_id(0)
    d = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    kept = (tl.load(kept_ptr + head // GROUPS) + tl.load(step_ptr)).to(tl.int32)
    used = tl.maximum(tl.cdiv(kept, _part(kept, CUTS, LEAST)), 1)
    cut = tl.arange(0, SLOTS)
    live = cut < used
    place = head * CUTS + cut
    if CHAINED:
        gdc_wait()
        gdc_launch_dependents()
    top = tl.load(tops_ptr + place * 2, mask=live, other=float("-inf"))
    total = tl.load(tops_ptr + place * 2 + 1, mask=live, other=0.0)
    share = tl.exp2(top - tl.max(top, 0))
    sums = tl.load(sums_ptr + place[:, None] * D + d[None, :], mask=live[:, None] & (d < D)[None, :], other=0.0)
    out = tl.sum(sums * share[:, None], 0) / tl.sum(total * share, 0)
    tl.store(out_ptr + head * D + d, out.to(out_ptr.dtype.element_ty), mask=d < D)


def attend(
    qkv: Tensor,
    lists: Lists,
    step: Tensor,
    cos: Tensor,
    sin: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    epsilon: float,
    scaling: float,
) -> Tensor:
    """Rotate q and k, append k and v, attend. See `purekv_cli.kernels.decode`."""
    dim, (seats, kv_heads) = lists.keys.shape[1], lists.start.shape
    heads = qkv.shape[1] // dim - 2 * kv_heads
    cuts = _cuts(qkv.device, kv_heads)
    wide = max(16, triton.next_power_of_2(dim))
    sums = torch.empty(seats * heads, cuts, dim, dtype=torch.float32, device=qkv.device)
    tops = torch.empty(seats * heads, cuts, 2, dtype=torch.float32, device=qkv.device)
    q_norm, k_norm = norms or (qkv, qkv)
    keys, stages = _tile(wide * qkv.element_size())
    _attend[(seats * kv_heads, cuts)](
        qkv,
        lists.keys,
        lists.values,
        lists.start,
        lists.kept,
        step,
        cos,
        sin,
        q_norm,
        k_norm,
        sums,
        tops,
        epsilon,
        scaling * 1.4426950408889634,  # log2 e: powers of two are cheaper
        cos.stride(0),
        HEADS=heads,
        KV_HEADS=kv_heads,
        D=dim,
        WIDE=wide,
        GROUP=max(16, triton.next_power_of_2(heads // kv_heads)),
        KEYS=keys,
        CUTS=cuts,
        LEAST=_LEAST,
        NORMED=norms is not None,
        STAGES=stages,
        num_warps=4,
        **chained(qkv.device),
    )
    out = torch.empty(seats, heads * dim, dtype=qkv.dtype, device=qkv.device)
    narrow = min(wide, 32)
    _merge[(seats * heads, wide // narrow)](
        sums,
        tops,
        lists.kept,
        step,
        out,
        GROUPS=heads // kv_heads,
        D=dim,
        WIDE=narrow,
        CUTS=cuts,
        SLOTS=triton.next_power_of_2(cuts),
        LEAST=_LEAST,
        num_warps=4,
        **chained(qkv.device),
    )
    return out


def _tile(row_bytes: int) -> tuple[int, int]:
    """Keys of a tile and tiles in flight: what measured best for 256 bytes a key; never more than 83 KiB in all."""
    return (64, 3) if row_bytes <= 256 else (64, 2) if row_bytes <= 512 else (32, 2)


def _cuts(device: torch.device, kv_heads: int) -> int:
    """Parts of a list, a power of two, so that all heads together fill the device twice."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
    return max(1, min(128, 1 << (2 * processors // kv_heads).bit_length() - 1))
