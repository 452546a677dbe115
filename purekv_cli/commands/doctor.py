"""`purekv doctor`: what is installed, and which device and kernels would run, and why not the others."""

import importlib
import importlib.metadata
import os
import pkgutil
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from purekv_cli import __version__
from purekv_cli.commands.options import JsonFlag, with_flags
from purekv_cli.memory import free_memory
from purekv_cli.report.record import SCHEMA_VERSION, dumps
from purekv_cli.report.units import size
from purekv_cli.settings import cache_path, config_path
from purekv_cli.terminal import page

NEEDED = ("torch", "transformers", "av", "numpy", "pillow", "safetensors", "huggingface-hub", "typer", "rich")
OPTIONAL = ("triton", "accelerate", "hf-xet")


@with_flags
def doctor(*, flags: JsonFlag) -> None:
    """Check the installation and say what would run."""
    broken: list[str] = []
    report = {
        "schema_version": SCHEMA_VERSION,
        "purekv": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} cores",
        "packages": _packages(broken),
        "ffmpeg": _try(_ffmpeg, broken, "PyAV"),
        "devices": _try(_devices, broken, "torch"),
        "kernels": _try(_kernels, broken, "the kernels"),
        "demo_model": _try(_demo_model, broken, "the demo model"),
        "hub": _try(_hub, broken, "huggingface_hub"),
        "memory_free": _try(free_memory, broken, "the memory reading"),
        "disk_free": shutil.disk_usage(_existing(cache_path())).free,
        "config": f"{config_path()}{'' if config_path().is_file() else ' (not there)'}",
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith("PUREKV_")},
        "broken": broken,
    }
    if flags.json:
        print(dumps(report), end="")
    else:
        page().print(_table(report))
    if broken:
        raise typer.Exit(1)


def _try(look: Any, broken: list[str], what: str) -> Any:
    """A finding, or why there is none: a doctor must survive any illness."""
    try:
        return look()
    except Exception as error:
        broken.append(f"{what}: {type(error).__name__}: {error}")
        return None


def _packages(broken: list[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in (*NEEDED, *OPTIONAL):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
            if name in NEEDED:
                broken.append(f"{name} is not installed: pip install {name}")
    return found


def _ffmpeg() -> dict[str, str]:
    import av

    return {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}


def _devices() -> list[dict[str, Any]]:
    import torch

    from purekv_cli.models.placement import cpu_has_bfloat16

    gpus = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        gpus.append({"name": f"cuda:{index} {torch.cuda.get_device_name(index)}", "free": free, "total": total})
    capability = torch.backends.cpu.get_cpu_capability()
    bf16 = cpu_has_bfloat16()
    cpu = f"cpu ({torch.get_num_threads()} threads, {capability}, bfloat16 {'in hardware' if bf16 else 'emulated'})"
    return [*gpus, {"name": cpu, "free": None, "total": None}]


def _kernels() -> dict[str, list[dict[str, Any]]]:
    """Every operation of purekv_cli.kernels that can explain itself, on the device that would run it."""
    import torch

    import purekv_cli.kernels as home

    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    operations = {}
    for module in pkgutil.iter_modules(home.__path__):
        operation = importlib.import_module(f"purekv_cli.kernels.{module.name}")
        if hasattr(operation, "explain"):
            rows = operation.explain(device, dtype)
            if isinstance(rows, tuple):  # an operation with one kernel beside its reference
                rows = [("triton", *rows), ("reference", True, "always right, slow")]
            operations[module.name] = [{"kernel": name, "usable": ok, "why": why} for name, ok, why in rows]
    return operations


def _demo_model() -> str:
    from purekv_cli.demo import MODEL_DIR

    weights = MODEL_DIR / "model.safetensors"
    return f"{size(weights.stat().st_size)} in {MODEL_DIR}"


def _hub() -> dict[str, Any]:
    from huggingface_hub import constants

    from purekv_cli.models.registry import cached_models

    return {
        "cache": constants.HF_HUB_CACHE,
        "offline": constants.HF_HUB_OFFLINE,
        "models": [model.name for model in cached_models()],
    }


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _table(report: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("purekv", report["purekv"])
    table.add_row("python", report["python"])
    table.add_row("system", report["system"])
    for name, version in report["packages"].items():
        table.add_row(name, version or "not installed" + ("" if name in NEEDED else " (optional)"))
    if report["ffmpeg"]:
        table.add_row("FFmpeg", ", ".join(f"{name} {version}" for name, version in report["ffmpeg"].items()))
    for device in report["devices"] or []:
        memory = f", {size(device['free'])} of {size(device['total'])} free" if device["total"] else ""
        table.add_row("device", device["name"] + memory)
    for operation, rows in (report["kernels"] or {}).items():
        chosen = next((row["kernel"] for row in rows if row["usable"]), None)
        for row in rows:
            verdict = "runs" if row["kernel"] == chosen else "could run" if row["usable"] else "no"
            table.add_row(
                f"kernel {operation}", f"{row['kernel']}: {verdict}" + (f" ({row['why']})" if row["why"] else "")
            )
    table.add_row("demo model", report["demo_model"] or "missing")
    if hub := report["hub"]:
        state = "offline" if hub["offline"] else "online when needed"
        table.add_row("hub cache", f"{hub['cache']} ({state}): {', '.join(hub['models']) or 'no model'}")
    table.add_row("memory free", size(report["memory_free"]) if report["memory_free"] else "unknown")
    table.add_row("disk free", size(report["disk_free"]))
    table.add_row("config", report["config"])
    for name, value in report["environment"].items():
        table.add_row(name, value)
    for problem in report["broken"]:
        table.add_row("broken", problem)
    return table
