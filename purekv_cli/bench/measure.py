"""Clocks and their spread, and the device's own limits that times are held against."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

_MATRIX = {"cuda": 8192, "cpu": 1024}  # side of the square product
_COPY = {"cuda": 2**30, "cpu": 2**26}  # bytes


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one quantity over runs."""

    mean: float
    least: float
    deviation: float | None  # standard deviation of the sample; None for one run

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), min(values), deviation)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the device can do at most, measured."""

    flops: float  # a second, of a large matrix product
    bandwidth: float  # bytes a second, read and write of a large copy together


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    """How long `work` takes until the device has finished it."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def limits(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> Limits:
    """The best of some repeats: a limit is what can be reached, not the mean."""
    kind = "cuda" if device.type == "cuda" else "cpu"
    side, size = _MATRIX[kind], _COPY[kind]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    several = 8 if kind == "cuda" else 1  # per look at the clock: launches are not to be seen

    def product() -> None:
        for _ in range(several):
            torch.mm(a, b, out=out)

    def copy() -> None:
        for _ in range(several):
            target.copy_(source)

    multiply, move = (min(seconds(device, work) for _ in range(repeats)) / several for work in (product, copy))
    return Limits(2 * side**3 / multiply, 2 * size / move)


def peak_memory(device: torch.device) -> int | None:
    """Most bytes the allocator held since `reset_peak`; None where it does not count (CPU)."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def reset_peak(device: torch.device) -> None:
    """Begin to count anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
