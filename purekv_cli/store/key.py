"""Everything that decides what a prefill keeps of a clip. Two runs with the same key would keep the same bits."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from purekv_cli import __version__
from purekv_cli.pipeline import Plan
from purekv_cli.store.content import digest
from purekv_cli.store.header import FORMAT

if TYPE_CHECKING:
    import torch

_CODE = ("kernels", "method", "models", "runtime", "video")  # what the bits come out of
_MODEL_FILES = (".safetensors", ".json", ".jinja", ".txt", ".model")


@dataclass(frozen=True, slots=True)
class Key:
    """Where the prefill of a clip is found."""

    name: str  # of the file
    video: str  # digest of the clip's bytes
    facts: dict[str, Any]  # for people


def make_key(plan: Plan, model: str, folder: Path, dtype: "torch.dtype", device: "torch.device", kernels: str) -> Key:
    """The key of a plan.

    Args:
        model: its name, for people. folder: its files, which count.
        kernels: which may run ("auto", "reference").

    Raises:
        OSError: the clip or the model cannot be read.
    """
    video, method, sample = digest(plan.info.path), plan.method, plan.sample
    decides = {
        "format": FORMAT,
        "version": __version__,
        "libraries": libraries(),
        "code": code(),
        "video": [plan.info.kind, video],
        "times": sample.times,
        "sample": [sample.start, sample.end, sample.seconds_per_frame],
        "size": plan.size,
        "sound": [plan.listens, plan.audio_tokens],
        "model": _model(folder),
        "machine": [str(dtype), _machine(device), kernels],
        "method": asdict(method),
    }
    facts = {
        "path": plan.info.source or str(plan.info.path.absolute()),
        "start": sample.start,
        "end": sample.end,
        "frames": len(sample.times),
        "model": model,
        "policy": method.policy,
        "budget": str(method.budget),
        "observe": method.observe,
        "made": time.time(),
    }
    whole = json.dumps(decides, sort_keys=True, default=str)
    name = name_of(plan.info.size_bytes, video) + hashlib.sha256(whole.encode()).hexdigest()[:32]
    return Key(name, video, facts)


def name_of(size: int, video: str = "") -> str:
    """How the names of all files of a clip begin, or of all clips of a size (bytes); `video`: its digest."""
    return f"{size:x}-" + (video[:16] + "-" if video else "")


def _model(folder: Path) -> list[Any]:
    """The content of config.json, and name, size and times of every file; a hub's files are followed to the content."""
    files = sorted(path for path in folder.iterdir() if path.suffix in _MODEL_FILES)
    states = [(path.name, path.stat()) for path in files]
    config = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    return [config, *((name, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for name, state in states)]


def _machine(device: "torch.device") -> str:
    if device.type != "cuda":
        return device.type
    import torch

    return torch.cuda.get_device_name(device)


@cache
def libraries() -> list[str]:
    """What the bits come through, by version."""
    return [f"{name} {version(name)}" for name in ("torch", "transformers", "av", "triton") if find_spec(name)]


@cache
def code() -> str:
    """Digest of this package's own code, because a version number stands still while somebody works on it."""
    package, whole = Path(__file__).parent.parent, hashlib.sha256()
    for path in sorted(path for part in _CODE for path in (package / part).rglob("*.py")):
        whole.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return whole.hexdigest()
