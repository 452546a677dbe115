"""Presets: the method's dials that suit one model, as TOML files shipped with the tool.

A preset is named with --preset (a name or a file), or chosen because it says that it is for the model at hand. What a
flag, the environment or the config file sets goes over it. `calibrated = false` marks values that were carried over
from another model and not yet measured on this one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cache
from importlib.resources import files
from pathlib import Path

from purekv_cli.errors import UsageError, unknown
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig, Propagation
from purekv_cli.settings import ClipSettings, MethodSettings, read_toml
from purekv_cli.tables import read_table


@dataclass(frozen=True, slots=True)
class Preset:
    """One presets/*.toml."""

    title: str
    models: tuple[str, ...] = ()  # patterns of model names it is for
    calibrated: bool = False
    method: MethodConfig = field(default_factory=MethodConfig)
    clip: ClipSettings = field(default_factory=ClipSettings)
    name: str = ""


DEFAULT = Preset(title="Default values, not calibrated", name="default")


def folder() -> Path:
    """The shipped presets: inside the installed package, or beside it in a source checkout."""
    package = Path(str(files("purekv_cli")))
    shipped = package / "presets_data"
    return shipped if shipped.is_dir() else package.parent / "presets"


def read_preset(path: Path) -> Preset:
    """A preset file, checked key by key."""
    table = read_toml(path)
    if not isinstance(table.get("title"), str):
        raise UsageError(f"{path}: a preset needs a title", 'Begin with: title = "what it is for".')
    return replace(read_table(Preset, table, str(path)), name=path.stem)


@cache
def shipped() -> dict[str, Preset]:
    """Every shipped preset by name."""
    return {path.stem: read_preset(path) for path in sorted(folder().glob("*.toml"))}


def find(name: str) -> Preset:
    """The preset of that name, or in that file."""
    if name.endswith(".toml") or "/" in name:
        return read_preset(Path(name).expanduser())
    known = {"default": DEFAULT} | shipped()
    if name not in known:
        raise unknown("preset", name, known)
    return known[name]


def choose(named: str | None, model_names: Sequence[str]) -> Preset:
    """The named preset, else the first that is for one of the model's names, else the default values."""
    if named:
        return find(named)
    for preset in shipped().values():
        if any(fnmatch(name.lower(), pattern.lower()) for name in model_names for pattern in preset.models):
            return preset
    return DEFAULT


def method_config(preset: Preset, given: MethodSettings, seed: int) -> MethodConfig:
    """The preset with what was given over it."""
    config = replace(preset.method, seed=seed)
    if given.budget is not None:
        config = replace(config, budget=Budget.parse(given.budget))
    if given.policy is not None:
        config = replace(config, policy=given.policy)
    if given.observe is not None:
        config = replace(config, observe=given.observe)
    if given.propagate is not None:
        config = replace(config, propagate=Propagation.parse(given.propagate))
    if given.dense:
        sparse = replace(config.sparse, enabled=False)
        config = replace(config, policy="dense", budget=Budget("fraction", 1.0), sparse=sparse, propagate=None)
    return config


def clip_settings(preset: Preset, given: ClipSettings) -> ClipSettings:
    """The preset's sampling with what was given over it; a count replaces a preset's rate and the other way round."""
    base = preset.clip
    if given.fps is not None or given.frames is not None or given.sample is not None:
        base = replace(base, fps=None, frames=None, sample=None)
    stated = {name: getattr(given, name) for name in ClipSettings.__dataclass_fields__}
    return replace(base, **{name: value for name, value in stated.items() if value is not None})
