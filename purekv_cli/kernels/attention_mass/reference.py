"""Attention mass in plain torch: blocks of observed rows, so that no attention matrix is ever stored."""

import torch
from torch import Tensor

from purekv_cli.kernels.attention_mass.reduce import Reduce

_BLOCK_ELEMENTS = {"cpu": 2**19, "cuda": 2**27}  # of a CPU: what its caches hold
_LEAST = torch.finfo(torch.float32).min  # a row without keys has lse = -inf: it gives nothing


def attention_mass(
    query: Tensor, key: Tensor, lse: Tensor | None, scaling: float, rows: Tensor, valid: Tensor | None, reduce: Reduce
) -> Tensor:
    """See `purekv_cli.kernels.attention_mass.attention_mass`."""
    batch, heads, length, dim = query.shape
    kv_heads, columns = key.shape[1:3]
    groups, offset = heads // kv_heads, columns - length
    device = query.device
    if valid is not None:
        rows = rows & valid[:, offset:]
    mass = torch.zeros(batch, kv_heads, columns, dtype=torch.float32, device=device)
    most = int(rows.sum(-1).max()) if rows.numel() else 0
    if most == 0:
        return mass
    # The observed rows of every prompt, in order; prompts with fewer are filled up with -1.
    numbers = torch.where(rows, torch.arange(length, device=device), length).sort(-1).values[:, :most]
    numbers = numbers.masked_fill(numbers == length, -1)
    keys = key.float().mT  # [B, Hkv, D, M]
    step = max(1, _BLOCK_ELEMENTS.get(device.type, 2**24) // (batch * heads * columns))
    for start in range(0, most, step):
        taken = numbers[:, start : start + step]  # [B, R]
        end = int(taken.max()) + offset + 1  # no row of the block sees a later key
        at = taken.clamp(min=0)[:, None, :]
        block = query.gather(2, at[..., None].expand(-1, heads, -1, dim)).float() * scaling
        scores = (block.view(batch, kv_heads, -1, dim) @ keys[..., :end]).view(batch, kv_heads, groups, -1, end)
        seen = torch.arange(end, device=device) <= (taken + offset)[..., None]  # [B, R, end]
        seen &= (taken >= 0)[..., None]
        if valid is not None:
            seen = seen & valid[:, None, :end]
        least = int(taken.min())
        free = least + offset if valid is None and least >= 0 else 0  # so many keys are seen by all rows of the block
        scores[..., free:].masked_fill_(~seen[:, None, None, :, free:], float("-inf"))
        if lse is None:
            total = scores.logsumexp(-1, keepdim=True)
        else:
            total = lse.gather(2, at.expand(-1, heads, -1)).float().view(batch, kv_heads, groups, -1, 1)
        weights = scores.sub_(total.clamp(min=_LEAST)).exp_()
        if reduce == "sum":
            mass[..., :end] += weights.sum((2, 3))
        else:
            mass[..., :end] = torch.maximum(mass[..., :end], weights.amax((2, 3)))
    return mass


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
) -> Tensor:
    """See `purekv_cli.kernels.attention_mass.row_mass`."""
    batch, heads, rows, dim = query.shape
    kv_heads, columns = key.shape[1:3]
    at = torch.arange(columns, device=key.device) if key_positions is None else key_positions.long()
    mass = torch.zeros(batch, kv_heads, columns, dtype=torch.float32, device=key.device)
    keys = key.float().mT[:, :, None]  # [B, Hkv, 1, D, M]
    step = max(1, _BLOCK_ELEMENTS.get(key.device.type, 2**24) // max(1, batch * heads * columns))
    for start in range(0, rows, step):
        block = query[:, :, start : start + step].float().reshape(batch, kv_heads, heads // kv_heads, -1, dim) * scaling
        seen = at <= row_positions[start : start + step, None]  # [R, M]
        scores = (block @ keys).masked_fill_(~seen, float("-inf"))
        if lse is None:
            total = scores.logsumexp(-1, keepdim=True)
        else:
            total = lse[:, :, start : start + step].float().reshape(*scores.shape[:-1], 1)
        weights = scores.sub_(total.clamp(min=_LEAST)).exp_()
        mass = mass + weights.sum((2, 3)) if reduce == "sum" else torch.maximum(mass, weights.amax((2, 3)))
    if pool_heads:
        mass = mass.sum(1, keepdim=True) if reduce == "sum" else mass.amax(1, keepdim=True)
    if key_positions is not None:
        mass = torch.empty_like(mass).index_copy_(-1, at, mass)
    return mass if running is None else torch.maximum(mass, running)
