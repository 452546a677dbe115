"""Which fused kernels run: Triton on a GPU where it proved right at first use, else plain torch."""

from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from purekv_cli.kernels import allowed
from purekv_cli.kernels.fused import reference

_TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}  # one unit in the last place, near 2


def choose(x: Tensor) -> ModuleType:
    """The module to call for a tensor like `x`."""
    if allowed() == "reference" or tried(x.device, x.dtype) is not None:
        return reference
    from purekv_cli.kernels.fused import triton as fast

    return fast


def explain(device: torch.device | str, dtype: torch.dtype) -> tuple[bool, str]:
    """Whether the Triton kernels run here, and why (not)."""
    why = tried(torch.device(device), dtype)
    return why is None, why or "agrees with the reference"


@lru_cache(maxsize=64)
def tried(device: torch.device, dtype: torch.dtype) -> str | None:
    """What speaks against the Triton kernels; None: they agree with the reference on a small problem."""
    if device.type != "cuda":
        return "runs on CUDA only"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if dtype not in _TOLERANCE:
        return f"does not take {str(dtype).removeprefix('torch.')}"
    if torch.version.cuda and torch.cuda.get_device_capability(device) < (8, 0):
        return "needs a GPU of compute capability 8.0"
    try:
        from purekv_cli.kernels.fused import triton as fast

        pairs = list(zip(samples(fast, device, dtype), samples(reference, device, dtype), strict=True))
    except torch.OutOfMemoryError:  # says nothing about the kernels: must not be remembered
        raise
    except Exception as error:  # a compiler may fail in any way
        return (str(error).splitlines() or [type(error).__name__])[0][:120]
    worst = max(float((got.float() - want.float()).abs().max()) for got, want in pairs)
    return None if worst <= _TOLERANCE[dtype] else f"differs from the reference by {worst:.1e}"


def samples(module: ModuleType, device: torch.device | str, dtype: torch.dtype) -> list[Tensor]:
    """What the four kernels of a module make of a few rows, as wide as in a 7B model: the variants it needs."""
    generator = torch.Generator().manual_seed(0)
    rows, heads, kv_heads, dim = 5, 3, 1, 128
    x, more = (torch.rand(rows, 3584, generator=generator).sub(0.5).to(device, dtype) for _ in range(2))
    qkv = x[:, : (heads + 2 * kv_heads) * dim]
    angles = torch.rand(rows, dim, generator=generator)
    cos, sin = angles.cos().to(device, dtype), angles.sin().to(device, dtype)
    back = torch.arange(rows - 1, -1, -1, device=device)
    return [
        module.rms_norm(x, more[0], 1e-6),
        *module.add_rms_norm(x, more, more[1], 1e-6),
        module.silu_mul(x),
        *module.rotate(qkv, cos, sin, heads, kv_heads, back, None, None, 1e-6),
    ]
