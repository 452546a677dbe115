"""One finished run as plain values: what `--json` prints and what every report is rendered from."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from purekv_cli import __version__
from purekv_cli.runtime.events import Answer

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Record:
    """What was asked of which video and model, with which answers."""

    title: str
    video: dict[str, Any]  # container facts
    sample: dict[str, Any]  # which frames, at which size
    model: dict[str, Any]
    method: dict[str, Any]
    answers: Sequence[Answer]
    damage: tuple[str, ...]
    summary: tuple[tuple[str, str], ...]  # the same for people: (label, text)
    versions: dict[str, str]  # of purekv and what computes for it
    found: tuple[dict[str, Any], ...] = ()  # per answer, in its text: times, and JSON where that was asked for
    strip: tuple[tuple[str, bytes], ...] = ()  # a few frames: (time, JPEG)
    also: tuple[dict[str, Any], ...] = ()  # of further videos, "video" and "sample" each

    @property
    def stats(self) -> Any:
        """Of the first answer: the one that paid for a shared prefill."""
        return self.answers[0].stats


def as_dict(record: Record) -> dict[str, Any]:
    """The JSON object, in the order a reader wants it."""
    found: Sequence[dict[str, Any]] = record.found or [{}] * len(record.answers)
    return {
        "schema_version": SCHEMA_VERSION,
        "purekv": __version__,
        "versions": record.versions,
        "video": record.video,
        "sample": record.sample,
        **({"also": list(record.also)} if record.also else {}),
        "model": record.model,
        "method": record.method,
        "answers": [_answer(answer) | more for answer, more in zip(record.answers, found, strict=True)],
        "damage": list(record.damage),
    }


def to_json(record: Record) -> str:
    return dumps(as_dict(record))


def dumps(value: Any) -> str:
    """JSON that any parser reads: numbers that are not finite become null."""
    return json.dumps(_finite(value), ensure_ascii=False, indent=2, default=str, allow_nan=False) + "\n"


def _answer(answer: Answer) -> dict[str, Any]:
    stats = asdict(answer.stats)
    stats["kv_ratio"] = round(answer.stats.kv_bytes_full / max(answer.stats.kv_bytes_kept, 1), 3)
    return {"question": answer.question, "text": answer.text, "finish": answer.finish, "stats": stats}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
