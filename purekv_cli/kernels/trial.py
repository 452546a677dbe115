"""Whether a Triton kernel can be trusted here: it is run once on a small problem and held against its reference.

A table of what works where would age; the first use finds out, and the caller remembers the answer.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec

import torch

_LEAST_CAPABILITY = (8, 0)
AGREES = "agrees with the reference"


def objection(
    distance: Callable[[], float],
    device: torch.device,
    dtype: torch.dtype,
    tolerance: Mapping[torch.dtype, float],
) -> str | None:
    """What speaks against the kernel; None: nothing does.

    Args:
        distance: runs kernel and reference on the small problem; the largest difference.
        tolerance: the difference that rounding explains, for every dtype that the kernel takes.
    """
    if device.type != "cuda":
        return "runs on CUDA only"
    if find_spec("triton") is None:
        return "Triton is not installed"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return "needs a GPU of compute capability 8.0"
    if dtype not in tolerance:
        return f"does not take {str(dtype).removeprefix('torch.')}"
    try:
        worst = distance()
    except torch.OutOfMemoryError:  # says nothing about the kernel: must not be remembered
        raise
    except Exception as error:  # a compiler may fail in any way
        return (str(error).splitlines() or [type(error).__name__])[0][:120]
    return None if worst <= tolerance[dtype] else f"differs from the reference by {worst:.1e}"  # NaN does too
