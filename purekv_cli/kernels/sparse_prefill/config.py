"""Block sizes of the Triton kernel by what a chip holds; those for Hopper were measured on an H200."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Config:
    """One compiled variant."""

    rows: int  # of queries per program, at most those of a query tile
    keys: int  # per block
    warps: int
    stages: int  # blocks of K and V in flight
    tma: bool  # whether K and V come through the tensor memory accelerator


def choose(device: torch.device, dtype: torch.dtype, dim: int) -> Config:
    """The fastest that fits into the shared memory of a block."""
    if device.type != "cuda":
        return Config(128, 64, 4, 1, False)  # Triton's interpreter
    return for_chip(torch.cuda.get_device_capability(device), dtype, dim)


def for_chip(capability: tuple[int, int], dtype: torch.dtype, dim: int) -> Config:
    """The same by compute capability, without a device."""
    if dtype == torch.float32:
        return Config(32, 32, 4, 1, False) if dim <= 128 else Config(16, 16, 4, 1, False)
    if dim > 128:
        return Config(64, 32, 4, 1, False)
    if capability[0] == 9:
        return Config(128, 128, 8, 5, True) if dim in (64, 128) else Config(128, 128, 8, 3, False)
    if capability in ((8, 0), (8, 7)) or capability[0] == 10:
        return Config(128, 64, 4 if dim <= 64 else 8, 3, False)  # 164 KB of shared memory
    return Config(128, 64, 4 if dim <= 64 else 8, 2, False)  # 99 KB
