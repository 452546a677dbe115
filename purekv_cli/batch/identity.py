"""What makes two runs the same: everything that answers depend on, as the ledger's header keeps it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from purekv_cli.errors import UsageError
from purekv_cli.models.registry import Source
from purekv_cli.presets import choose, clip_settings, method_config
from purekv_cli.settings import Settings


def identity(settings: Settings, source: Source) -> dict[str, Any]:
    """The settings that decide about answers, with preset and model resolved, as JSON has them.

    Where and how fast a run goes is none of them: a batch may be continued on another machine.
    """
    names = [source.name, *([source.repo] if source.repo else [])]
    preset = choose(settings.method.preset, names)
    method = method_config(preset, settings.method, settings.model.seed)
    model = asdict(settings.model) | {"model": source.name}
    del model["device"], model["offline"]
    chosen = {
        "model": model,
        "sound": asdict(settings.sound),
        "subtitles": asdict(settings.subtitles),
        "clip": asdict(clip_settings(preset, settings.clip)),
        "method": asdict(method) | {"budget": str(method.budget), "preset": preset.name},
    }
    plain: dict[str, Any] = json.loads(json.dumps(chosen, default=str))
    return plain


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Raise UsageError if settings differ that both know (another version of purekv may know more)."""
    changed = sorted(_changes(before, now))
    if changed:
        raise UsageError(
            f"{where} was begun with other settings: {'; '.join(changed)}",
            "Use the same settings to continue it, or give this run another -o.",
        )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in before.keys() & now.keys():
        old, new = before[name], now[name]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _changes(old, new)
        elif old != new:
            yield f"{name} was {_plain(old)} and is now {_plain(new)}"


def _plain(value: object) -> str:
    return "not set" if value is None else str(value)
