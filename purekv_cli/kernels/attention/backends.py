"""The attention kernels that torch ships and that also return the log-sum-exp, and which of them can be trusted here.

torch's public function hides the LSE, so the operators below it are called. Each has limits that depend on the build,
the device, the dtype and the head size; instead of a table that ages, every backend is tried once on a small problem
against the reference, and the result is remembered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from purekv_cli.kernels import allowed
from purekv_cli.kernels.attention import reference

Op = Callable[[Tensor, Tensor, Tensor, float, bool, Tensor | None], tuple[Tensor, Tensor]]
_CUDNN_LEAST_ROWS = 128  # it plans anew for every shape: not worth it for a few rows, and one row is unsupported
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def _flash_cpu(
    q: Tensor, k: Tensor, v: Tensor, scaling: float, causal: bool, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, attn_mask=bias, scale=scaling
    )
    return out, lse


def _cudnn(q: Tensor, k: Tensor, v: Tensor, scaling: float, causal: bool, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, k, v, bias, True, 0.0, causal, False, scale=scaling
    )
    return out, lse.reshape(q.shape[:3])  # [B, H, N, 1]


def _flash(q: Tensor, k: Tensor, v: Tensor, scaling: float, causal: bool, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scaling)
    return out, lse


def _efficient(
    q: Tensor, k: Tensor, v: Tensor, scaling: float, causal: bool, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    if bias is not None:  # the operator wants aligned rows and no broadcasting
        columns = bias.shape[-1]
        padded = bias.new_zeros(*bias.shape[:-1], -(-columns // 16) * 16)
        padded[..., :columns] = bias
        bias = padded[..., :columns].expand(q.shape[0], q.shape[1], q.shape[2], columns)
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, bias, True, 0.0, causal, scale=scaling
    )
    return out, lse[..., : q.shape[2]]  # the LSE is padded to a multiple of 32 rows


def _reference(
    q: Tensor, k: Tensor, v: Tensor, scaling: float, causal: bool, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    return reference.attention(q, k, v, scaling, causal=causal, mask=None if bias is None else bias == 0)


@dataclass(frozen=True, slots=True)
class Backend:
    """One operator: (query, key, value, scaling, causal, additive bias) -> (out, lse), square when causal."""

    name: str
    device: str | None  # device type it lives on; None: any
    dtypes: tuple[torch.dtype, ...]
    masks: bool  # whether it takes a bias
    least_rows: int
    run: Op


_HALF = (torch.bfloat16, torch.float16)
BACKENDS = (
    Backend("flash-cpu", "cpu", (torch.float32, torch.float64, *_HALF), True, 1, _flash_cpu),
    Backend("cudnn", "cuda", _HALF, False, _CUDNN_LEAST_ROWS, _cudnn),
    Backend("flash", "cuda", _HALF, False, 1, _flash),
    Backend("efficient", "cuda", (torch.float32, *_HALF), True, 1, _efficient),
    Backend("reference", None, (torch.float32, torch.float64, *_HALF), True, 1, _reference),
)


@dataclass(frozen=True, slots=True)
class Trial:
    """How a backend did on the small problem."""

    usable: bool
    native_gqa: bool  # whether it takes fewer KV heads than query heads
    why: str


@lru_cache(maxsize=256)
def tried(name: str, device: torch.device, dtype: torch.dtype, dim: int, groups: int) -> Trial:
    """Run backend `name` once on a small problem; usable only if it agrees with the reference."""
    backend = next(b for b in BACKENDS if b.name == name)
    if backend.device not in (None, device.type):
        return Trial(False, False, f"runs on {backend.device} only")
    if device.type == "cuda" and not torch.cuda.is_available():
        return Trial(False, False, "torch sees no CUDA device")
    if dtype not in backend.dtypes:
        return Trial(False, False, f"does not take {str(dtype).removeprefix('torch.')}")
    if backend.name == "reference":
        return Trial(True, True, "always right, slow")
    native = _attempt(backend, device, dtype, dim, groups, expand=False)
    if native is None:
        return Trial(True, True, "agrees with the reference")
    if groups > 1 and (expanded := _attempt(backend, device, dtype, dim, groups, expand=True)) is None:
        return Trial(True, False, "agrees with the reference; KV heads are repeated for it")
    return Trial(False, False, native if groups == 1 else expanded or native)


def _attempt(
    backend: Backend, device: torch.device, dtype: torch.dtype, dim: int, groups: int, *, expand: bool
) -> str | None:
    """What went wrong; None when nothing did."""
    rows = max(backend.least_rows, 72)
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 2 * groups, rows, dim), (1, 2, rows, dim), (1, 2, rows, dim))
    q, k, v = (torch.randn(s, generator=generator).to(device, dtype) for s in shapes)
    seen = torch.rand(1, 1, rows, rows, generator=generator).to(device) > 0.5
    seen[..., 0] = True
    for causal, mask in ((True, None), (False, None), (False, seen)):
        if mask is not None and not backend.masks:
            continue
        bias = None if mask is None else additive(mask, dtype)
        keys, values = (k, v) if not expand else (repeated(k, groups), repeated(v, groups))
        try:
            out, lse = backend.run(q, keys, values, dim**-0.5, causal, bias)
        except torch.OutOfMemoryError:  # says nothing about the kernel: must not be remembered
            raise
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            return str(error).splitlines()[0][:120]
        true_out, true_lse = reference.attention(q, k, v, dim**-0.5, causal=causal, mask=mask)
        worst = max((out - true_out).abs().max().item(), (lse - true_lse).abs().max().item())
        if not worst <= _TOLERANCE.get(dtype, 1e-4):  # NaN fails too
            return f"differs from the reference by {worst:.1e}"
    return None


def choose(query: Tensor, key: Tensor, *, masked: bool) -> tuple[Backend, Trial]:
    """The first backend that suits this call."""
    groups = query.shape[1] // key.shape[1]
    for backend in BACKENDS:
        if allowed() == "reference" != backend.name:
            continue
        if (masked and not backend.masks) or query.shape[2] < backend.least_rows:
            continue
        trial = tried(backend.name, query.device, query.dtype, query.shape[3], groups)
        if trial.usable:
            return backend, trial
    raise TypeError(f"no attention kernel takes {query.dtype} on {query.device}")


def explain(device: torch.device | str, dtype: torch.dtype) -> list[tuple[str, bool, str]]:
    """(backend, usable, why) in order of preference, tried on the shapes of Qwen2.5-VL-7B (head size 128, 7 groups)."""
    trials = [(b.name, tried(b.name, torch.device(device), dtype, 128, 7)) for b in BACKENDS]
    return [(name, trial.usable, trial.why) for name, trial in trials]


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a query may read, -inf elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))


def repeated(kv: Tensor, groups: int) -> Tensor:
    """KV heads once per query head of their group."""
    return kv if groups == 1 else kv.repeat_interleave(groups, 1)
