"""Which implementation compacts: Triton where it proved right at first use, else plain torch."""

from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from purekv_cli.kernels import allowed, trial
from purekv_cli.kernels.compact import reference

_EXACT = {torch.float32: 0.0, torch.float16: 0.0, torch.bfloat16: 0.0}  # entries are moved, not computed


def choose(key: Tensor) -> ModuleType:
    """The module to call."""
    if allowed() == "reference" or tried(key.device, key.dtype, key.shape[3], key.shape[1]) is not None:
        return reference
    from purekv_cli.kernels.compact import triton as fast

    return fast


def explain(device: torch.device | str, dtype: torch.dtype) -> tuple[bool, str]:
    """Whether the Triton kernel runs here, and why (not), on the shapes of Qwen2.5-VL-7B."""
    why = tried(torch.device(device), dtype, 128, 4)
    return why is None, why or trial.AGREES


@lru_cache(maxsize=64)
def tried(device: torch.device, dtype: torch.dtype, dim: int, heads: int) -> str | None:
    """What speaks against the Triton kernel; None: nothing does."""
    return trial.objection(lambda: _distance(device, dtype, dim, heads), device, dtype, _EXACT)


def _distance(device: torch.device, dtype: torch.dtype, dim: int, heads: int) -> float:
    from purekv_cli.kernels.compact import triton as fast

    generator = torch.Generator().manual_seed(0)
    key, value = (torch.randn(1, heads, 77, dim, generator=generator).to(device, dtype) for _ in range(2))
    source = torch.randperm(77, generator=generator).to(device)
    positions = torch.randint(-1, 77, (1, heads, 41), generator=generator).to(device)
    got, want = (module.compact(key, value, positions, source) for module in (fast, reference))
    return max(float((a - b).abs().max()) for a, b in zip(got, want, strict=True))
