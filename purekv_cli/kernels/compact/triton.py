"""Compaction in Triton: one launch reads the positions once and moves whole rows of K and V, whatever their strides."""

# mypy: allow-untyped-defs
import torch
import triton
import triton.language as tl
from torch import Tensor

_ENTRIES = 16  # a program's
_WARPS = 4


@triton.jit(do_not_specialize=["kept", "at_batch", "at_head"])
def _compact_kernel(
    K, V, AT, SOURCE, NEW_K, NEW_V, kept, k_batch, k_head, k_row, v_batch, v_head, v_row, at_batch, at_head, at_entry,
    HEADS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, MAPPED: tl.constexpr,
):  # fmt: skip
    """new[b, h, p] = old[b, h, source[at[b, h, p]]], zero where at is negative."""
    batch, head = (tl.program_id(1) // HEADS).to(tl.int64), (tl.program_id(1) % HEADS).to(tl.int64)
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    left = entry < kept
    at = tl.load(AT + batch * at_batch + head * at_head + entry * at_entry, mask=left, other=-1).to(tl.int64)
    held = at >= 0
    if MAPPED:
        at = tl.load(SOURCE + at, mask=held, other=0).to(tl.int64)
    dims = tl.arange(0, WIDTH)
    inside = (dims < D)[None, :]
    taken, stored = held[:, None] & inside, left[:, None] & inside
    new = (tl.program_id(1).to(tl.int64) * kept + entry)[:, None] * D + dims[None, :]
    K += batch * k_batch + head * k_head
    V += batch * v_batch + head * v_head
    k = tl.load(K + at[:, None] * k_row + dims[None, :], mask=taken, other=0.0)
    v = tl.load(V + at[:, None] * v_row + dims[None, :], mask=taken, other=0.0)
    tl.store(NEW_K + new, k, mask=stored)
    tl.store(NEW_V + new, v, mask=stored)


def compact(
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    source: Tensor | None,
    *,
    entries: int = _ENTRIES,
    warps: int = _WARPS,
) -> tuple[Tensor, Tensor]:
    """See `purekv_cli.kernels.compact.compact`; `entries` and `warps` are a program's."""
    key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (key, value))
    batch, heads, _, dim = key.shape
    kept = positions.shape[-1]
    new_key = torch.empty(batch, heads, kept, dim, dtype=key.dtype, device=key.device)
    new_value = torch.empty(batch, heads, kept, dim, dtype=value.dtype, device=value.device)
    if new_key.numel() == 0:
        return new_key, new_value
    source = None if source is None else source.contiguous()
    _compact_kernel[(triton.cdiv(kept, entries), batch * heads)](
        key, value, positions, positions if source is None else source, new_key, new_value, kept,
        *key.stride()[:3], *value.stride()[:3], *positions.expand(batch, heads, -1).stride(),
        HEADS=heads, D=dim, WIDTH=triton.next_power_of_2(dim), BLOCK=entries, MAPPED=source is not None,
        num_warps=warps,
    )  # fmt: skip
    return new_key, new_value
