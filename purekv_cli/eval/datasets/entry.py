"""One question as a data file has it, and the checks that make an item of it. What is wrong is said in one line."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purekv_cli.eval.answers import LETTERS
from purekv_cli.eval.fragments import part_of
from purekv_cli.eval.records import Item

_LETTERED = re.compile(r"\s*\(?([A-Z])[).:]\s*")


class BadEntry(Exception):
    """Why an entry cannot be asked."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Not checked yet.

    `values` has the keys of docs/eval.md: video, question, answer, options, type, id, suite, start, end.
    """

    where: str  # "val.jsonl:12"
    values: Mapping[str, Any]
    correct: int | None = None  # the true option, where the layout knows it by number and not by letter or text
    talk: tuple[tuple[str, str], ...] = ()  # questions before it with their answers
    broken: str | None = None  # why there are no values


def item_of(entry: Entry, folder: Path, suite: str) -> Item:
    """The checked item.

    Args:
        folder: what video paths are relative to.
        suite: where the entry names none.

    Raises:
        BadEntry: something is missing, of a wrong type, or cannot be.
    """
    if entry.broken:
        raise BadEntry(entry.broken)
    values = entry.values
    path, question = folder / Path(_text(values, "video")).expanduser(), _text(values, "question")
    options = _options(values)
    start, end = (_seconds(values, name) for name in ("start", "end"))
    if start is not None and end is not None and end <= start:
        raise BadEntry(f"the part from {start:g} s to {end:g} s is empty")
    truth = LETTERS[entry.correct] if entry.correct is not None and options else _truth(values, options)
    if not path.exists():
        raise BadEntry(f"there is no file {path}")
    video = part_of(path, start, end)
    own = hashlib.sha256("\n".join([_text(values, "video"), question, *options, f"{start} {end}"]).encode())
    return Item(
        suite=_name(values, "suite", suite),
        video=video,
        id=_name(values, "id", own.hexdigest()[:12]),
        type=_name(values, "type", "question"),
        question=question,
        truth=truth,
        options=options,
        talk=entry.talk,
    )


def _text(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        raise BadEntry(f"it has no {name!r}")
    value = values[name]
    if not isinstance(value, str):
        raise BadEntry(f"{name!r} is {_kind(value)}, not text")
    if not value.strip():
        raise BadEntry(f"{name!r} is empty")
    return value.strip()


def _name(values: Mapping[str, Any], name: str, default: str) -> str:
    """A label: text, or a whole number taken as text."""
    value = values.get(name)
    if value is None:
        return default
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(values, name)


def _seconds(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise BadEntry(f"{name!r} is no time in seconds: {value!r}")
    return float(value)


def _options(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The options without letters of their own; empty for a free answer."""
    options = values.get("options")
    if options is None:
        return ()
    if not isinstance(options, list | tuple) or not all(isinstance(option, str) for option in options):
        raise BadEntry("'options' is not a list of texts")
    if not 2 <= len(options) <= len(LETTERS):
        raise BadEntry(f"'options' has {len(options)} entries, not 2 to {len(LETTERS)}")
    letters = [match[1] if (match := _LETTERED.match(option)) else "" for option in options]
    if letters == list(LETTERS[: len(options)]):
        options = [_LETTERED.sub("", option, count=1) for option in options]
    return tuple(option.strip() for option in options)


def _truth(values: Mapping[str, Any], options: tuple[str, ...]) -> str:
    """The true answer; with options its letter, whether the file gives letter or text."""
    answer = _text(values, "answer")
    if not options:
        return answer
    said = _LETTERED.sub("", answer, count=1) if _LETTERED.match(answer) and len(answer) > 3 else answer
    by_text = [LETTERS[n] for n, option in enumerate(options) if option in (answer, said)]
    bare = answer.strip("(). ").upper()
    by_letter = [bare] if len(bare) == 1 and bare in LETTERS[: len(options)] else []
    found = sorted({*by_text, *by_letter})
    if len(found) == 1:
        return found[0]
    if found:
        raise BadEntry(f"the answer {answer!r} could be option {' or '.join(found)}")
    raise BadEntry(
        f"the answer {answer!r} is no option: give a letter from A to {LETTERS[len(options) - 1]}, or its text"
    )


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "an object")
