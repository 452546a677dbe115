"""One token of one to eight sequences through the decoder: products, attention over ragged lists, the next draw.

Everything is bound by memory bandwidth: a step reads the weights and the cache once, and the kernels are cut so that
little else happens. They read lengths and counters on the device, so a CUDA graph of a step stays right while the cache
grows. What each operation computes is said by its plain twin in `reference`. A sequence's results do not depend on the
others that share its step, to the last bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from purekv_cli.kernels import allowed
from purekv_cli.kernels.decode import reference
from purekv_cli.kernels.decode.lists import Lists

__all__ = ["Kernels", "Lists", "choose", "explain"]

TOLERANCE = {torch.float32: 1e-4, torch.float16: 3e-3, torch.bfloat16: 2e-2}  # of numbers around one, else relative


@dataclass(frozen=True, slots=True)
class Kernels:
    """The operations of a step of S sequences; hidden [S, H] is the residual stream in float32."""

    name: str
    embed: Callable[[Tensor, Tensor, Tensor], Tensor]
    norm_linear: Callable[[Tensor, Tensor, float, Tensor, Tensor | None], Tensor]
    norm_gated: Callable[[Tensor, Tensor, float, Tensor], Tensor]
    add_linear: Callable[[Tensor, Tensor, Tensor], None]
    logits: Callable[[Tensor, Tensor, float, Tensor], Tensor]
    attend: Callable[[Tensor, Lists, Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None, float, float], Tensor]
    """qkv [S, (Hq + 2 Hkv) * D], lists, step int64 [1], cos and sin [S, steps, D], norms of q and k or None, their
    epsilon, scaling -> [S, Hq * D]. The keys are rotated by row `step` and appended before they are read."""


REFERENCE = Kernels(
    "reference",
    reference.embed,
    reference.norm_linear,
    reference.norm_gated,
    reference.add_linear,
    reference.logits,
    reference.attend,
)


def in_triton() -> Kernels:
    """The kernels in Triton; raises ImportError where it is not installed."""
    from purekv_cli.kernels.decode import products, split_attention

    return Kernels(
        "triton",
        products.embed,
        products.norm_linear,
        products.norm_gated,
        products.add_linear,
        products.logits,
        split_attention.attend,
    )


@lru_cache(maxsize=64)
def tried(device: torch.device, dtype: torch.dtype, dim: int, groups: int) -> str | None:
    """Run the Triton kernels once on a small problem: why they can't be used here, or None when all agree."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return "runs on CUDA only"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "needs a GPU of compute capability 8.0 or later"
    if dtype not in TOLERANCE:
        return f"does not take {str(dtype).removeprefix('torch.')}"
    if dim % 2 or not 16 <= dim <= 256:
        return f"does not take heads of {dim}"
    try:
        fast = in_triton()
    except ImportError:
        return "triton is not installed"
    try:
        worst = max(difference(fast, device, dtype, dim, groups))
    except torch.OutOfMemoryError:  # says nothing about the kernels: must not be remembered
        raise
    except Exception as error:  # a compiler raises what it likes
        return (str(error).splitlines() or [type(error).__name__])[0][:120]
    if not worst <= TOLERANCE[dtype]:  # NaN fails too
        return f"differs from the reference by {worst:.1e}"
    return None


def difference(fast: Kernels, device: torch.device, dtype: torch.dtype, dim: int, groups: int) -> list[float]:
    """Largest difference of every operation from the reference in float32, on lists of 0, 1, 65 and 1100 entries.

    With 512 columns the products are the variants that most models need.
    """
    random = torch.Generator().manual_seed(0)

    def noise(*shape: int, scale: float = 1.0, kind: torch.dtype = dtype) -> Tensor:
        return (torch.randn(*shape, generator=random) * scale).to(device, kind)

    kept = torch.tensor([0, 1, 65, 1100])
    start = kept.cumsum(0) - kept + 2 * torch.arange(4)
    rows = int(start[-1] + kept[-1]) + 2
    hidden, norm = noise(1, 512, kind=torch.float32), noise(512)
    weight, bias = noise(64, 512, scale=0.04), noise(64)
    qkv, keys, values = noise(1, (groups + 2) * 4 * dim), noise(rows, dim), noise(rows, dim)
    cos, sin = noise(1, 2, dim), noise(1, 2, dim)
    step = torch.ones(1, dtype=torch.int64, device=device)
    results = []
    for kernels, kind in ((fast, dtype), (REFERENCE, torch.float32)):
        lists = Lists(
            keys.to(kind, copy=True), values.to(kind, copy=True), start[None].to(device), kept[None].to(device)
        )
        summed = hidden[:, :64].clone()
        kernels.add_linear(summed, hidden.to(dtype).to(kind), weight.to(kind))
        results.append(
            [
                kernels.embed(weight.to(kind), start[:, None].to(device), step),
                kernels.norm_linear(hidden, norm.to(kind), 1e-6, weight.to(kind), bias.to(kind)),
                kernels.norm_gated(hidden, norm.to(kind), 1e-6, weight.to(kind)),
                kernels.logits(hidden, norm.to(kind), 1e-6, weight.to(kind)),
                summed,
                kernels.attend(qkv.to(kind), lists, step, cos.to(kind), sin.to(kind), None, 1e-6, dim**-0.5),
                lists.keys,
                lists.values,
            ]
        )
    return [
        ((mine.float() - true).abs() / true.abs().clamp(min=1)).max().item()
        for mine, true in zip(*results, strict=True)
    ]


def choose(device: torch.device, dtype: torch.dtype, dim: int, groups: int) -> tuple[Kernels, str]:
    """The kernels for a model of this kind, and why these."""
    if allowed() == "reference":
        return REFERENCE, "as asked"
    why = tried(device, dtype, dim, groups)
    return (in_triton(), "agrees with the reference") if why is None else (REFERENCE, why)


def explain(device: torch.device | str, dtype: torch.dtype) -> list[tuple[str, bool, str]]:
    """(kernels, usable, why), tried on the shapes of Qwen2.5-VL-7B (head size 128, 7 groups)."""
    why = tried(torch.device(device), dtype, 128, 7)
    return [
        ("triton", why is None, why or "agrees with the reference"),
        ("reference", True, "always right, slow on a GPU"),
    ]
