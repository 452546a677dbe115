"""Which implementation computes attention mass: Triton where it proved right at first use, else plain torch."""

from functools import lru_cache
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor

from purekv_cli.kernels import allowed, trial
from purekv_cli.kernels.attention_mass import reference

# Inputs are the same numbers on both sides and masses at most 1, so the dtype does not matter much.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-3, torch.bfloat16: 1e-3}
_MOST_DIM = 128

Rows = Literal["all", "few"]  # `attention_mass` or `row_mass`


def choose(query: Tensor, key: Tensor, rows: Rows) -> ModuleType:
    """The module to call."""
    heads, dim = query.shape[1], query.shape[3]
    if allowed() == "reference" or tried(query.device, query.dtype, dim, heads, key.shape[1], rows) is not None:
        return reference
    from purekv_cli.kernels.attention_mass import triton as fast

    return fast


def explain(device: torch.device | str, dtype: torch.dtype) -> tuple[bool, str]:
    """Whether the Triton kernels run here, and why (not), on the shapes of Qwen2.5-VL-7B."""
    refusals = (tried(torch.device(device), dtype, 128, 28, 4, rows) for rows in get_args(Rows))
    why = next(filter(None, refusals), None)
    return why is None, why or trial.AGREES


@lru_cache(maxsize=64)
def tried(device: torch.device, dtype: torch.dtype, dim: int, heads: int, kv_heads: int, rows: Rows) -> str | None:
    """What speaks against the Triton kernels; None: nothing does."""
    if dim > _MOST_DIM:
        return f"takes heads of up to {_MOST_DIM}"
    return trial.objection(lambda: _distance(device, dtype, dim, heads, kv_heads, rows), device, dtype, _TOLERANCE)


def _distance(device: torch.device, dtype: torch.dtype, dim: int, heads: int, kv_heads: int, how: Rows) -> float:
    """The largest difference, in the variants that a model with these heads needs."""
    from purekv_cli.kernels.attention_mass import triton as fast

    generator = torch.Generator().manual_seed(0)
    rows, keys = 37, 301
    query = torch.randn(1, heads, rows, dim, generator=generator).to(device, dtype)
    key = torch.randn(1, kv_heads, keys, dim, generator=generator).to(device, dtype)
    order = torch.randperm(keys, generator=generator).to(device)
    at = torch.arange(keys - rows, keys, device=device)
    every = torch.ones(1, rows, dtype=torch.bool, device=device)
    found = []
    for module in (reference, fast):
        if how == "few":
            mass = module.row_mass(query, key, dim**-0.5, at, order, None, "max", pool_heads=True, running=None)
        else:
            mass = module.attention_mass(query, key, None, dim**-0.5, every, None, "sum") / (rows * heads // kv_heads)
        found.append(mass)
    return float((found[0] - found[1]).abs().max())
