"""Which sparse kernel runs: the fastest that proved right here at first use.

`hopper` is written in Gluon, an experimental part of Triton whose interface may change with any release: a trial
against the reference, once per device, type and head size, decides whether it can be used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module

import torch
from torch import Tensor

from purekv_cli.kernels import allowed
from purekv_cli.kernels.sparse_prefill import reference
from purekv_cli.method.config import SparseConfig
from purekv_cli.method.layout import VideoLayout
from purekv_cli.method.pattern import build
from purekv_cli.method.runs import RunList

Op = Callable[[Tensor, Tensor, Tensor, RunList, float, bool], tuple[Tensor, Tensor | None]]
_HALF = (torch.bfloat16, torch.float16)
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True, slots=True)
class Backend:
    """One kernel, a module of this package with a function `sparse_prefill`."""

    name: str
    chips: tuple[int, ...]  # major compute capabilities; empty: any device
    dtypes: tuple[torch.dtype, ...]
    dims: tuple[int, ...]  # head sizes; empty: any

    @property
    def run(self) -> Op:
        op: Op = import_module(f"purekv_cli.kernels.sparse_prefill.{self.name}").sparse_prefill
        return op


BACKENDS = (
    Backend("hopper", (9,), _HALF, (64, 128)),
    Backend("triton", (8, 9, 10, 12), (*_HALF, torch.float32), ()),
    Backend("reference", (), (*_HALF, torch.float32, torch.float64), ()),
)


def choose(query: Tensor, key: Tensor) -> Backend:
    """The first backend that suits this call."""
    for backend in BACKENDS:
        if allowed() == "reference" != backend.name:
            continue
        if tried(backend.name, query.device, query.dtype, query.shape[3], query.shape[1], key.shape[1]) is None:
            return backend
    raise TypeError(f"no sparse attention kernel takes {query.dtype} on {query.device}")


def explain(device: torch.device | str, dtype: torch.dtype) -> list[tuple[str, bool, str]]:
    """(backend, usable, why) in order of preference, tried on the shapes of Qwen2.5-VL-7B."""
    refusals = [(b.name, tried(b.name, torch.device(device), dtype, 128, 28, 4)) for b in BACKENDS]
    right = {"reference": "always right, slow"}
    return [(name, why is None, why or right.get(name, "agrees with the reference")) for name, why in refusals]


@lru_cache(maxsize=64)
def tried(name: str, device: torch.device, dtype: torch.dtype, dim: int, heads: int, kv_heads: int) -> str | None:
    """What speaks against a backend; None: it agrees with the reference on a small problem."""
    backend = next(b for b in BACKENDS if b.name == name)
    if dtype not in backend.dtypes:
        return f"does not take {str(dtype).removeprefix('torch.')}"
    if not backend.chips:
        return None
    if device.type != "cuda":
        return "runs on CUDA only"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if torch.version.hip or torch.cuda.get_device_capability(device)[0] not in backend.chips:
        return f"needs a GPU of compute capability {' or '.join(f'{chip}.x' for chip in backend.chips)}"
    if backend.dims and dim not in backend.dims:
        return f"takes heads of size {' or '.join(map(str, backend.dims))}"
    try:
        return _differs(backend, device, dtype, dim, heads, kv_heads)
    except torch.OutOfMemoryError:  # says nothing about the kernel: must not be remembered
        raise
    except Exception as error:  # a compiler may fail in any way
        return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _differs(
    backend: Backend, device: torch.device, dtype: torch.dtype, dim: int, heads: int, kv_heads: int
) -> str | None:
    """On 40 frames of two tiles: whole blocks, packed keys, a short tile and a diagonal.

    The heads are the model's, so that no other variant is compiled for it.
    """
    generator = torch.Generator().manual_seed(0)
    layout = VideoLayout(670, torch.arange(7, 647), (40, 4, 4))
    runs = build(layout, SparseConfig(tile=(2, 4)), torch.rand(640, generator=generator).to(device))
    shapes = ((1, heads, 670, dim), (1, kv_heads, 670, dim), (1, kv_heads, 670, dim))
    query, key, value = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)
    got = backend.run(query, key, value, runs, dim**-0.5, True)
    want = reference.sparse_prefill(query.float(), key.float(), value.float(), runs, dim**-0.5, True)
    worst = max(float((a.float() - b).abs().max()) for a, b in zip(got, want, strict=True))  # type: ignore[union-attr,operator]
    return None if worst <= _TOLERANCE[dtype] else f"differs from the reference by {worst:.1e}"
