"""Where a model runs and in which dtype: cuda, then mps, then cpu; bfloat16 where the hardware has it, else float32.

Weights that cannot fit are refused before they are read, because a machine that swaps looks like one that hangs.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from purekv_cli.errors import ModelUnavailable, OutOfResources, UsageError, unknown
from purekv_cli.memory import free_memory

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_FLOATS = {"F64", "F32", "F16", "BF16"}  # safetensors' names of what is cast on loading
_STORED = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}  # bytes of what is not
DAMAGED = "The checkpoint is damaged, half downloaded or of another layout: fetch it again."
_SPEECH = ("talker.", "token2wav.")  # parts of Qwen2.5-Omni that are never loaded


@dataclass(frozen=True, slots=True)
class Placement:
    """A decision, ready for from_pretrained."""

    device: torch.device
    dtype: torch.dtype
    device_map: str | None  # "auto": layers spread over the GPUs


def place(name: str, weights: Iterable[Path], dtype: str, device: str, device_map: str | None) -> Placement:
    """Choose device and dtype for the weights and check that they fit.

    Raises:
        UsageError: no such device or dtype. OutOfResources: it is not here, or too small.
    """
    where = choose_device(device)
    kind = choose_dtype(dtype, where)
    need = parameter_bytes(weights, kind)
    if where.type == "cuda":
        free = [torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())]
        one = free[where.index or 0]
        if device_map is None and device == "auto" and need > one and len(free) > 1:
            device_map = "auto"
        room: int | None = sum(free) if device_map else one
    else:
        if device_map is not None:
            raise UsageError("a device map needs CUDA devices", "Leave it out on this machine.")
        room = free_memory()
    if device_map and find_spec("accelerate") is None:
        raise OutOfResources(
            f"spreading {name} over several GPUs needs the package accelerate",
            "pip install accelerate, or choose a smaller model such as -m 7b or -m 3b.",
        )
    if room is not None and need > room:
        smaller = "--dtype bfloat16 or " if kind == torch.float32 else ""
        raise OutOfResources(
            f"{name} needs {need / 2**30:.1f} GiB for its weights, and {room / 2**30:.1f} GiB are free on {where}",
            f"Try {smaller}a smaller model (-m 3b, -m demo), or free some memory.",
        )
    return Placement(where, kind, device_map)


def choose_device(name: str) -> torch.device:
    """The torch device that `name` means; "auto" takes the fastest kind that is here."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown("device", name, ["auto", "cpu", "cuda", "cuda:0", "mps"]) from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise OutOfResources(
                f"there is no device {name}: torch sees {count} CUDA devices", "Use --device auto or --device cpu."
            )
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise OutOfResources("there is no device mps on this machine", "Use --device auto or --device cpu.")
    if device.type not in ("cpu", "mps"):
        raise unknown("device", name, ["auto", "cpu", "cuda", "cuda:0", "mps"])
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; "auto" takes bfloat16 where the device computes in it natively."""
    if name != "auto":
        if name not in DTYPES:
            raise unknown("dtype", name, ["auto", *DTYPES])
        return DTYPES[name]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and cpu_has_bfloat16()
    return torch.bfloat16 if native else torch.float32


def cpu_has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU multiplies bfloat16 itself (AMX, AVX512-BF16, Armv8.6); elsewhere float32 is faster."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return bool({"amx_bf16", "avx512_bf16", "bf16"} & set(flags.split()))


def parameter_bytes(weights: Iterable[Path], dtype: torch.dtype) -> int:
    """Bytes of the parameters once loaded as `dtype`; integer weights stay as they are. Reads only the headers.

    Raises:
        ModelUnavailable: a header that cannot be read.
    """
    total = 0
    for path in weights:
        try:
            total += _bytes_in(path, dtype)
        except SafetensorError as error:
            raise ModelUnavailable(f"{path} could not be loaded: {error}", DAMAGED) from error
    return total


def _bytes_in(path: Path, dtype: torch.dtype) -> int:
    total = 0
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
            if name.startswith(_SPEECH):
                continue
            entry = file.get_slice(name)
            total += math.prod(entry.get_shape()) * (
                dtype.itemsize if entry.get_dtype() in _FLOATS else _STORED.get(entry.get_dtype(), 1)
            )
    return total
