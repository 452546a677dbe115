"""Kernels of a step in a chain: the next one starts while the last programs of the one before are still at work.

Programmatic dependent launch (compute capability 9.0 on). A kernel may read what never changes, the weights, before it
waits for the kernel before it; and it lets the next one start only after that wait, so that at its start everything but
its direct predecessor is complete.
"""

# mypy: allow-untyped-defs

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl


@lru_cache(maxsize=16)
def chained(device: torch.device) -> dict[str, Any]:
    """Launch options of every kernel of the chain."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (9, 0):
        return {"CHAINED": False}
    return {"CHAINED": True, "launch_pdl": True}


@triton.jit
def prefetch(ptr):
    """Bring a line into the L2 cache."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; // $0", "=r,l", [ptr.to(tl.int64)], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def load(ptr, column, columns, EVEN: tl.constexpr):
    """Some columns of a vector or of rows, zero behind the end."""
    if EVEN:
        return tl.load(ptr + column)
    return tl.load(ptr + column, mask=column < columns, other=0.0)
