"""What a run was told to do, settled from its sources: flag > PUREKV_* > config file > preset > default.

Typer reads flags and environment; what both leave open comes from the config file here. Values of the clip and the
method may still be open after that, because the preset depends on the model: presets.py closes them.
"""

import os
import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import platformdirs

from purekv_cli.errors import UsageError
from purekv_cli.kernels import Allowed
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import Observe
from purekv_cli.tables import misspelt, read_table

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ClipSettings:
    """Which frames are read; None is left to the preset."""

    start: float | None = None  # s
    end: float | None = None  # s
    fps: float | None = None
    frames: int | None = None
    max_frames: int | None = None
    max_pixels: int | None = None  # per frame
    sample: Literal["uniform", "fps", "keyframes", "scene"] | None = None


@dataclass(frozen=True, slots=True)
class SoundSettings:
    """Whether the model hears the clip too."""

    audio: bool = False


@dataclass(frozen=True, slots=True)
class SubtitleSettings:
    """Whether the model reads the clip's subtitles."""

    subs: str | None = None  # "auto", or a file
    subs_tokens: int = 4096  # at most so many of them


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Which model answers, and where it runs."""

    model: str = "auto"
    revision: str | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    device: str = "auto"
    offline: bool = False
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class MethodSettings:
    """How the cache is pruned; None is left to the preset."""

    budget: str | None = None
    preset: str | None = None
    policy: str | None = None
    dense: bool = False
    kernels: Allowed = "auto"
    observe: Observe | None = None
    propagate: str | None = None


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Whether what is kept of a clip outlives the process."""

    cache: bool | None = None  # None: where questions share a prefill
    cache_limit: str = "10GiB"  # of all files

    @property
    def limit(self) -> int:
        """In bytes."""
        return parse_bytes(self.cache_limit)


@dataclass(frozen=True, slots=True)
class OutputSettings:
    """What is shown and written."""

    json: bool = False
    stats: bool = False
    report: Path | None = None
    no_stream: bool = False
    quiet: bool = False
    verbose: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """One run's settings."""

    clip: ClipSettings = ClipSettings()
    sound: SoundSettings = SoundSettings()
    subtitles: SubtitleSettings = SubtitleSettings()
    model: ModelSettings = ModelSettings()
    method: MethodSettings = MethodSettings()
    cache: CacheSettings = CacheSettings()
    output: OutputSettings = OutputSettings()


def settle(*flags: Any) -> Settings:
    """Groups of flags over the config file over the defaults.

    Args:
        flags: any of the groups of commands/options.py; a field that is None was not given.

    Raises:
        UsageError: an impossible value, or a config file that cannot be read.
    """
    config = _read_config()
    groups = {}
    for field in fields(Settings):
        kind: Any = type(field.default)
        names = {f.name for f in fields(kind)}
        merged = {name: value for name, value in config.items() if name.replace("-", "_") in names}
        group = read_table(kind, merged, str(config_path()))
        for given in flags:
            present = {f.name: getattr(given, f.name) for f in fields(given) if f.name in names}
            group = replace(group, **{name: _plain(value) for name, value in present.items() if value is not None})
        groups[field.name] = group
    return _checked(Settings(**groups))


def config_path() -> Path:
    """PUREKV_CONFIG, or config.toml in the user's configuration folder."""
    named = os.environ.get("PUREKV_CONFIG")
    return Path(named).expanduser() if named else platformdirs.user_config_path("purekv") / "config.toml"


def cache_path() -> Path:
    """Where sample clips and kept caches live: the user's cache folder."""
    return platformdirs.user_cache_path("purekv")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file, or a UsageError that says where it breaks."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "Check the path and its permissions.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}", "Mend that line, or move the file away.") from error


def parse_time(text: str) -> float:
    """Seconds from "90", "1:30" or "1:02:03.5"."""
    hint = "Write it as seconds (90), minutes (1:30) or hours (1:02:03.5)."
    parts = text.strip().split(":")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        raise UsageError(f"cannot read the time {text!r}", hint) from None
    wrong = len(parts) > 3 or any(n >= 60 for n in numbers[1:]) or any(not n.is_integer() for n in numbers[:-1])
    if wrong or not all(0 <= n < float("inf") for n in numbers):
        raise UsageError(f"cannot read the time {text!r}", hint)
    seconds = 0.0
    for number in numbers:
        seconds = seconds * 60 + number
    return seconds


def parse_bytes(text: str) -> int:
    """Bytes from "10GiB" or "500MB"."""
    try:
        size = Budget.parse(text)
    except UsageError:
        size = None
    if size is None or size.kind != "bytes":
        raise UsageError(f"cannot read the size {text!r}", "Write it with a unit, such as 10GiB or 500MB.")
    return int(size.value)


def _read_config() -> dict[str, Any]:
    path = config_path()
    if not path.is_file():
        if os.environ.get("PUREKV_CONFIG"):
            raise UsageError(f"there is no file {str(path)!r}", "PUREKV_CONFIG must name a TOML file.")
        return {}
    config = read_toml(path)
    every = {f.name for group in fields(Settings) for f in fields(type(group.default))}  # type: ignore[arg-type]
    for key in config:
        if key.replace("-", "_") not in every:
            raise misspelt(key, every, str(path))
    for key in ("start", "end"):
        if isinstance(config.get(key), str):
            config[key] = parse_time(config[key])
    if "budget" in config:
        config["budget"] = str(config["budget"])
    return config


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)  # the enums of the flags are strings here


def _checked(settings: Settings) -> Settings:
    clip, model, method = settings.clip, settings.model, settings.method
    counts = {
        "frames": clip.frames,
        "max-frames": clip.max_frames,
        "max-tokens": model.max_tokens,
        "subs-tokens": settings.subtitles.subs_tokens,
    }
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value} is too few", "Give a whole number from 1 on.")
    if clip.fps is not None and not 0 < clip.fps < float("inf"):
        raise UsageError(f"--fps {clip.fps:g} is not a rate", "Give frames a second, such as 2 or 0.5.")
    if clip.max_pixels is not None and clip.max_pixels < 28 * 28:
        raise UsageError(f"--max-pixels {clip.max_pixels} is less than one token", "Give at least 784 (28 x 28).")
    if clip.start is not None and clip.end is not None and clip.end <= clip.start:
        raise UsageError(
            f"the clip ends at {clip.end:g} s, not after it starts at {clip.start:g} s", "Give an --end after --start."
        )
    parse_bytes(settings.cache.cache_limit)
    if method.dense and method.policy not in (None, "dense"):
        raise UsageError(f"--dense and --policy {method.policy} contradict each other", "Give one of them.")
    return settings
