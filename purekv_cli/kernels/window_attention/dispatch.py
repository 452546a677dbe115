"""Which implementation of windowed attention runs: Triton where it proved right at first use, else plain torch."""

import os
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from purekv_cli.kernels import allowed
from purekv_cli.kernels.window_attention import reference

Op = Callable[[Tensor, Tensor, Tensor, Tensor, int, int, float], Tensor]
LONGEST = 128  # tokens of a window that one program holds: 64 KiB of shared memory, and any GPU has that
LONGEST_FLOAT32 = 64  # 96 KiB; twice as many tokens would take more than the 99 KiB of compute capability 8.9
_WIDEST = 128  # head size it holds
_TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def choose(qkv: Tensor, longest: int, heads: int) -> Op:
    """The function to call for these tensors."""
    dim = qkv.shape[-1] // (3 * heads)
    most = LONGEST_FLOAT32 if qkv.dtype == torch.float32 else LONGEST
    if allowed() == "reference" or longest > most or tried(qkv.device, qkv.dtype, dim, heads) is not None:
        return reference.window_attention
    from purekv_cli.kernels.window_attention.triton import window_attention

    return window_attention


def explain(device: torch.device | str, dtype: torch.dtype, dim: int = 80, heads: int = 16) -> tuple[bool, str]:
    """Whether the Triton kernel runs here, and why (not), on the shapes of Qwen2.5-VL-7B's tower if none are given."""
    why = tried(torch.device(device), dtype, dim, heads)
    return why is None, why or "agrees with the reference"


@lru_cache(maxsize=64)
def tried(device: torch.device, dtype: torch.dtype, dim: int, heads: int) -> str | None:
    """What speaks against the Triton kernel; None: it agrees with the reference on a small problem."""
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return "runs on CUDA only"
    if dtype not in _TOLERANCE:
        return f"does not take {str(dtype).removeprefix('torch.')}"
    if dim % 2 or dim > _WIDEST:
        return f"does not take a head size of {dim}"
    if device.type == "cuda" and torch.version.cuda and torch.cuda.get_device_capability(device) < (8, 0):
        return "needs a GPU of compute capability 8.0"
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(2 * 70, 3 * heads * dim, generator=generator).to(device, dtype)
    angles = torch.rand(70, dim // 2, generator=generator).repeat(1, 2).to(device)
    starts = torch.tensor([0, 64, 69, 70], dtype=torch.int32, device=device)
    problem = (qkv, angles.cos(), angles.sin(), starts, 64, heads, dim**-0.5)
    try:
        from purekv_cli.kernels.window_attention import triton as fast

        got = fast.window_attention(*problem)
    except torch.OutOfMemoryError:  # says nothing about the kernel: must not be remembered
        raise
    except Exception as error:  # a compiler may fail in any way
        return (str(error).splitlines() or [type(error).__name__])[0][:120]
    worst = float((got.float() - reference.window_attention(*problem).float()).abs().max())
    return None if worst <= _TOLERANCE[dtype] else f"differs from the reference by {worst:.1e}"
