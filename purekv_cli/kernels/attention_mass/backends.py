"""Which implementation computes attention mass: Triton where it proved right at first use, else plain torch."""

from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from purekv_cli.kernels import allowed, trial
from purekv_cli.kernels.attention_mass import reference

# Inputs are the same numbers on both sides and masses at most 1, so the dtype does not matter much.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-3, torch.bfloat16: 1e-3}
_MOST_DIM = 128


def choose(query: Tensor, key: Tensor) -> ModuleType:
    """The module to call."""
    groups = query.shape[1] // key.shape[1]
    if allowed() == "reference" or tried(query.device, query.dtype, query.shape[3], groups) is not None:
        return reference
    from purekv_cli.kernels.attention_mass import triton as fast

    return fast


def explain(device: torch.device | str, dtype: torch.dtype) -> tuple[bool, str]:
    """Whether the Triton kernels run here, and why (not), on the shapes of Qwen2.5-VL-7B."""
    why = tried(torch.device(device), dtype, 128, 7)
    return why is None, why or trial.AGREES


@lru_cache(maxsize=64)
def tried(device: torch.device, dtype: torch.dtype, dim: int, groups: int) -> str | None:
    """What speaks against the Triton kernels; None: nothing does."""
    if dim > _MOST_DIM:
        return f"takes heads of up to {_MOST_DIM}"
    return trial.objection(lambda: _distance(device, dtype, dim, groups), device, dtype, _TOLERANCE)


def _distance(device: torch.device, dtype: torch.dtype, dim: int, groups: int) -> float:
    """The largest difference over the ways in which the kernels are called."""
    from purekv_cli.kernels.attention_mass import triton as fast

    generator = torch.Generator().manual_seed(0)
    rows, keys, kv_heads = 37, 301, 2
    query = torch.randn(1, kv_heads * groups, rows, dim, generator=generator).to(device, dtype)
    key = torch.randn(1, kv_heads, keys, dim, generator=generator).to(device, dtype)
    order = torch.randperm(keys, generator=generator).to(device)
    at = torch.arange(keys - rows, keys, device=device)
    every = torch.ones(1, rows, dtype=torch.bool, device=device)
    worst = []
    for module in (reference, fast):
        pooled = module.row_mass(query, key, dim**-0.5, at, order, None, "max", pool_heads=True, running=None)
        each = module.attention_mass(query, key, None, dim**-0.5, every, None, "sum") / (rows * groups)
        worst.append((pooled, each))
    return max(float((a - b).abs().max()) for a, b in zip(*worst, strict=True))
