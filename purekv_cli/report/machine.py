"""What a run was made with: versions and device, the same words in every report."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from purekv_cli import __version__

if TYPE_CHECKING:
    import torch

_PACKAGES = ("torch", "transformers", "triton")


def versions() -> dict[str, str]:
    """Of purekv and what computes for it, by name; what is not installed is left out."""
    found = {"purekv": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {"python": platform.python_version()}


def in_words(found: dict[str, str]) -> str:
    """ "purekv 0.1.0, torch 2.13.0, ..." """
    return ", ".join(f"{name} {version}" for name, version in found.items())


def device_name(device: "torch.device") -> str:
    """As its maker calls it, and what decides its speed besides."""
    import torch

    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    if device.type == "cpu":
        return f"cpu, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    return str(device)
