"""Attention mass in plain torch: blocks of observed rows, so that no attention matrix is ever stored."""

import torch
from torch import Tensor

from purekv_cli.kernels.attention_mass.reduce import Reduce

_BLOCK_ELEMENTS = {"cpu": 2**22, "cuda": 2**27}


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
    keys = key.float().mT[:, :, None]  # [B, Hkv, 1, D, M]
    step = max(1, _BLOCK_ELEMENTS.get(device.type, 2**24) // (batch * heads * columns))
    for start in range(0, most, step):
        taken = numbers[:, start : start + step]  # [B, R]
        end = int(taken.max()) + offset + 1  # no row of the block sees a later key
        at = taken.clamp(min=0)[:, None, :]
        block = query.gather(2, at[..., None].expand(-1, heads, -1, dim)).float()
        scores = block.view(batch, kv_heads, groups, -1, dim) @ keys[..., :end] * scaling
        seen = torch.arange(end, device=device) <= (taken + offset)[..., None]  # [B, R, end]
        seen &= (taken >= 0)[..., None]
        if valid is not None:
            seen = seen & valid[:, None, :end]
        scores = scores.masked_fill(~seen[:, None, None], float("-inf"))
        if lse is None:
            total = scores.logsumexp(-1, keepdim=True)
        else:
            total = lse.gather(2, at.expand(-1, heads, -1)).float().view(batch, kv_heads, groups, -1, 1)
        weights = (scores - total).exp().masked_fill(~seen[:, None, None], 0.0)  # a row without keys has lse = -inf
        if reduce == "sum":
            mass[..., :end] += weights.sum((2, 3))
        else:
            mass[..., :end] = torch.maximum(mass[..., :end], weights.amax((2, 3)))
    return mass
