"""Attention mass in Triton: one launch for the log-sum-exp of the rows where it is not given, one for the masses."""

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
from torch import Tensor

from purekv_cli.kernels.attention_mass.programs import NOWHERE, mass, row_lse
from purekv_cli.kernels.attention_mass.reduce import Reduce

_LOG2_E = 1.4426950408889634
_MANY_ROWS = 1024  # from here on skipping what causality hides is worth more than packing heads
_MOST_SPLITS = 16
_SCANNED = 2048  # key positions read at a time


@dataclass(frozen=True, slots=True)
class Tiles:
    """Block sizes and launch options of one kernel."""

    rows: int
    keys: int
    warps: int
    stages: int
    registers: int | None = None  # at most so many a thread: leaves room for more programs at a time


def default_tiles(dtype: torch.dtype, *, many: bool = False) -> tuple[Tiles, Tiles]:
    """For the LSE and the mass, as measured on an H200; within the 99 KiB of shared memory of a GPU of sm_89.

    Larger tiles that only an H100 has room for were about 5 % faster.
    """
    if dtype == torch.float32:
        return Tiles(64, 32, 4, 2), Tiles(32, 64, 4, 1)
    return Tiles(128, 64, 8, 3, 128), Tiles(64, 128, 4, 3, 168) if many else Tiles(64, 128, 4, 2, 128)


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
    """See `purekv_cli.kernels.attention_mass.row_mass`; both launches are asynchronous.

    Keys in order get positions too: few rows lose nothing by it, and there is one variant less to compile.
    """
    key_at = torch.arange(key.shape[2], device=key.device) if key_positions is None else key_positions
    return _launch(
        query, key, scaling, row_positions[None], key_at[None], lse, reduce, pool_heads, running, tiles, scatter=True
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
        key_at = torch.where(valid, torch.arange(key.shape[2], device=key.device), NOWHERE)
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
    if pool and reduce == "sum":  # in a fixed order, so that the result is the same on every run
        each = _launch(query, key, scaling, row_at, key_at, lse, reduce, False, None, tiles, scatter=scatter)
        whole = each.sum(1, keepdim=True)
        return whole if running is None else torch.maximum(whole, running)
    out = torch.zeros(batch, 1 if pool else kv_heads, keys, dtype=torch.float32, device=key.device)
    if rows == 0 or keys == 0:
        return out if running is None else out.copy_(running)
    query, key = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key))
    many = rows >= _MANY_ROWS and not scatter
    width = max(16, triton.next_power_of_2(dim))
    first, second = tiles or default_tiles(query.dtype, many=many)
    precision = "tf32x3" if query.dtype == torch.float32 else "tf32"
    at_batch = row_at.stride(0) if len(row_at) > 1 else 0
    positions = row_at if key_at is None else key_at
    key_at_batch = positions.stride(0) if len(positions) > 1 else 0
    unit = _LOG2_E
    if lse is None:
        unit = 1.0
        blocks = triton.cdiv(groups * rows, first.rows)
        splits = _splits(blocks * kv_heads * batch, triton.cdiv(keys, first.keys), query.device)
        lse = torch.empty(batch, heads, rows, dtype=torch.float32, device=query.device)
        parts = lse if splits == 1 else lse.new_empty(splits, batch, heads, rows)
        arrived = torch.zeros(blocks * kv_heads * batch if splits > 1 else 1, dtype=torch.int32, device=query.device)
        row_lse[(blocks, splits, batch * kv_heads)](
            query, key, row_at, positions, parts, arrived, lse, scaling * _LOG2_E, rows, keys,
            triton.cdiv(triton.cdiv(keys, splits), first.keys) * first.keys,
            *query.stride()[:3], *key.stride()[:3], at_batch, key_at_batch, lse.numel(), *lse.stride()[:2],
            KV_HEADS=kv_heads, GROUPS=groups, D=dim, WIDTH=width, BM=first.rows, BN=first.keys,
            SPLITS_UP=1 if splits == 1 else _MOST_SPLITS, SCANNED=_SCANNED, KEY_POSITIONS=key_at is not None,
            ORDERED=ordered, PRECISION=precision,
            num_warps=first.warps, num_stages=first.stages, maxnreg=first.registers,
        )  # fmt: skip
    blocks = triton.cdiv(keys, second.keys)
    from_row = _first_rows(row_at, second.keys, blocks).expand(batch, -1, -1).contiguous() if many else row_at
    kept = out if running is None else running
    mass[(blocks * kv_heads, batch)](
        query, key, row_at, positions, lse, from_row, kept, out.view(torch.int32) if pool else out,
        scaling * _LOG2_E, unit, rows, keys,
        *query.stride()[:3], *key.stride()[:3], at_batch, key_at_batch, *lse.stride(), *kept.stride()[:2],
        KV_HEADS=kv_heads, GROUPS=groups, D=dim, WIDTH=width, BM=second.rows, BK=second.keys,
        KEY_POSITIONS=key_at is not None, SCATTER=scatter, MANY=many, POOL=pool, SUM=reduce == "sum",
        PRECISION=precision,
        num_warps=second.warps, num_stages=second.stages, maxnreg=second.registers,
    )  # fmt: skip
    return out


def _first_rows(row_at: Tensor, block: int, blocks: int) -> Tensor:
    """int32 [B or 1, 2, blocks]: the first row that sees a block's first key, and its last; rows ascend up to holes."""
    starts = torch.arange(blocks, device=row_at.device) * block
    wanted = torch.cat([starts, starts + block - 1]).expand(len(row_at), -1).contiguous()
    ascending = torch.where(row_at < 0, NOWHERE, row_at)
    return torch.searchsorted(ascending, wanted).int().view(-1, 2, blocks)


def _splits(programs: int, key_blocks: int, device: torch.device) -> int:
    """Enough programs for two on every multiprocessor."""
    return max(1, min(2 * _multiprocessors(device) // programs, key_blocks, _MOST_SPLITS))


@lru_cache(maxsize=16)
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 16
