"""Exact attention that also hands over the log-sum-exp of its rows, through the fastest kernel at hand.

The LSE is what CLIE needs: with it any row's attention to any key is one dot product away. Torch's
kernels align a causal mask at the first key; a continuation (fewer queries than keys) is therefore computed as two
calls, the past without mask and the own square with it, and merged by their LSE: exact, and no N x M mask is stored.
"""

import torch
from torch import Tensor

from purekv_cli.kernels.attention import backends
from purekv_cli.kernels.attention.backends import explain

__all__ = ["attention", "explain"]

_MASK_ELEMENTS = 2**26  # bound on a bias or score block: longer calls go in blocks of rows


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    *,
    causal: bool,
    mask: Tensor | None = None,
    need_lse: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """softmax(q k^T * scaling) v with grouped-query heads.

    Args:
        query: [B, Hq, N, D].
        key, value: [B, Hkv, M, D], Hkv divides Hq.
        causal: query i reads keys up to i + M - N (the last query sees all); needs N <= M.
        mask: bool, broadcastable to [B, Hq, N, M] (its head axis may also be Hkv); True where a query may read.
            Combined with `causal`. A row that sees nothing gives out = 0, lse = -inf.

    Returns:
        out [B, Hq, N, D] in the query's dtype, and the natural-log LSE, float32 [B, Hq, N], or None.
    """
    rows, columns = query.shape[2], key.shape[2]
    if causal and rows > columns:
        raise ValueError(f"causal attention of {rows} queries over only {columns} keys")
    if mask is None and not _needs_blocks(query, key):
        out, lse = _plain(query, key, value, scaling, causal=causal and rows > 1)
    elif mask is not None and not causal and mask.dim() == 4 and mask.shape[2] == 1:
        out, lse = _folded(query, key, value, scaling, mask)
    else:
        out, lse = _blocks(query, key, value, scaling, causal, mask)
    return out, lse.float() if need_lse else None


def _plain(query: Tensor, key: Tensor, value: Tensor, scaling: float, *, causal: bool) -> tuple[Tensor, Tensor]:
    past = key.shape[2] - query.shape[2]
    if not causal:
        return _folded(query, key, value, scaling, None)
    if past == 0:
        return _call(query, key, value, scaling, True, None)
    return _merge(
        _folded(query, key[:, :, :past], value[:, :, :past], scaling, None),
        _call(query, key[:, :, past:], value[:, :, past:], scaling, True, None),
    )


def _merge(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Attention over the union of two key sets from its two parts."""
    lse = torch.logaddexp(first[1].float(), second[1].float())
    parts = ((out.float() * (part.float() - lse).exp()[..., None]) for out, part in (first, second))
    return sum(parts, start=torch.zeros((), device=lse.device)).to(first[0].dtype), lse


def _folded(query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows that all see the same keys: the heads of a group become rows of one head, so KV is read once."""
    batch, heads, rows, dim = query.shape
    kv_heads = key.shape[1]
    if mask is not None and mask.shape[1] not in (1, kv_heads):
        return _blocks(query, key, value, scaling, False, mask)
    packed = query.reshape(batch, kv_heads, heads // kv_heads * rows, dim)
    if mask is not None:
        mask = mask.expand(-1, -1, packed.shape[2], -1)
    if mask is not None or _needs_blocks(packed, key):
        out, lse = _blocks(packed, key, value, scaling, False, mask)
    else:
        out, lse = _call(packed, key, value, scaling, False, None)
    return out.reshape(query.shape), lse.reshape(batch, heads, rows)


def _blocks(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, causal: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Blocks of rows with a materialised mask each, so that its size is bounded; keys after the block are left out."""
    batch, heads, rows, _ = query.shape
    columns, groups = key.shape[2], query.shape[1] // key.shape[1]
    if mask is not None:
        mask = mask[(None,) * (4 - mask.dim())]
        if mask.shape[1] == key.shape[1] and groups > 1:
            mask = mask.repeat_interleave(groups, 1)
    wide = heads if mask is not None and mask.shape[1] > 1 else 1
    backend, _ = backends.choose(query, key, masked=True)
    if backend.name == "reference":
        wide = heads
    step = max(1, _MASK_ELEMENTS // (batch * wide * columns))
    out, lse = torch.empty_like(query), torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        end = stop + columns - rows if causal else columns
        seen = None if mask is None else _slice(mask, start, stop, end)
        if causal:
            below = torch.ones(stop - start, end, dtype=torch.bool, device=query.device).tril(end - (stop - start))
            seen = below[None, None] if seen is None else seen & below
        block = query[:, :, start:stop]
        if seen is None:
            out[:, :, start:stop], lse[:, :, start:stop] = _call(block, key, value, scaling, False, None)
            continue
        part, part_lse = _call(block, key[:, :, :end], value[:, :, :end], scaling, False, seen)
        dead = ~seen.any(-1)  # kernels disagree on rows that see nothing
        out[:, :, start:stop] = part.masked_fill(dead[..., None], 0.0)
        lse[:, :, start:stop] = part_lse.masked_fill(dead, float("-inf"))
    return out, lse


def _slice(mask: Tensor, start: int, stop: int, end: int) -> Tensor:
    rows = mask if mask.shape[2] == 1 else mask[:, :, start:stop]
    return rows if mask.shape[3] == 1 else rows[..., :end]


def _call(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, causal: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    backend, trial = backends.choose(query, key, masked=mask is not None)
    groups = query.shape[1] // key.shape[1]
    if not trial.native_gqa:
        key, value = backends.repeated(key, groups), backends.repeated(value, groups)
    bias = None if mask is None else backends.additive(mask, query.dtype)
    if bias is not None:
        bias = bias.expand(-1, -1, query.shape[2], key.shape[2])
    return backend.run(query, key, value, scaling, causal, bias)


def _needs_blocks(query: Tensor, key: Tensor) -> bool:
    """Whether only the reference is left, whose scores would not fit at once."""
    scores = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    return scores > _MASK_ELEMENTS and backends.choose(query, key, masked=False)[0].name == "reference"
