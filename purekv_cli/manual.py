"""The man page, from the same declarations as `--help`: python -m purekv_cli.manual build/purekv.1

Flags that several verbs take in the same words are described once; a verb names them and describes its own. Formatting
is that of man(7), which man-db, groff and mandoc read.
"""

import inspect
import os
import re
import sys
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from typer.models import OptionInfo

from purekv_cli import __version__
from purekv_cli.app import app, root

SHARED = 3  # verbs that have a flag in the same words, for it to be described once
EXIT_CODES = (
    ("0", "Answered."),
    ("1", "A failure; for bench, a red gate."),
    ("2", "Usage: a flag or value that cannot be."),
    ("3", "Unreadable input."),
    ("4", "The model is not available."),
    ("5", "Out of memory, device or disk."),
    ("6", "A batch or an eval finished, but some of it failed."),
    ("130", "Interrupted."),
    ("141", "The reader of stdout went away."),
)
ENVIRONMENT = (
    ("PUREKV_FLAG", "The flag of that name, such as PUREKV_BUDGET=0.1 or PUREKV_MAX_FRAMES=64. A flag goes over it."),
    ("HF_HUB_CACHE, HF_HOME", "Where downloaded models are kept."),
    ("HF_HUB_OFFLINE", "1: never touch the network."),
    ("NO_COLOR", "No colours."),
)
EXAMPLES = (
    'purekv ask holiday.mp4 "what happens?" --stats',
    'purekv ask holiday.mp4 "who wins?" -m 7b --budget 0.1 --report wins.html',
    'purekv explain holiday.mp4 "who wins?" -o kept',
    'purekv batch holidays/ -q "who is there?" -o answers.jsonl',
    "purekv bench --shape 7b --report bench.html",
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A flag or an argument of a verb, in words."""

    names: tuple[str, ...]  # "--model", "-m"; of an argument none
    value: str  # "NAME"; of a switch nothing
    help: str
    panel: str


@dataclass(frozen=True, slots=True)
class Verb:
    """One command."""

    name: str
    summary: str
    arguments: tuple[Entry, ...]
    flags: tuple[Entry, ...]


def verbs() -> list[Verb]:
    """In the order of the help."""
    return [_verb(str(command.name), command.callback) for command in app.registered_commands if command.callback]


def render(date: str = "") -> str:
    """The page as man(7) source."""
    every = verbs()
    counted = Counter(flag for verb in every for flag in verb.flags)
    shared = [flag for flag, count in counted.items() if count >= SHARED]
    lines = [f'.TH PUREKV 1 "{date}" "purekv {__version__}" "User Commands"', ".nh", ".ad l"]
    lines += [".SH NAME", f"purekv \\- {_text(_summary(root).rstrip('.'))}"]
    lines += [".SH SYNOPSIS", *_synopsis(every)]
    lines += [".SH DESCRIPTION", _text("The answer goes to stdout and nothing else does; the plan, progress and")]
    lines += [_text("statistics go to stderr. Every error is one line of what is wrong and one of what to do.")]
    lines += [_text("A flag goes over the environment, the environment over config.toml, that over the preset.")]
    lines += [".SH COMMANDS"]
    for verb in every:
        lines += _command(verb, shared)
    lines += [".SH SHARED FLAGS"]
    for panel in dict.fromkeys(flag.panel for flag in shared):
        lines += [f".SS {_text(panel or 'Other')}"]
        lines += [line for flag in shared if flag.panel == panel for line in _described(flag)]
    lines += [".SH EXIT STATUS", *_table(EXIT_CODES), ".SH ENVIRONMENT", *_table(ENVIRONMENT)]
    lines += [".SH FILES", *_table([("config.toml", "Defaults of flags; `purekv doctor` shows in which folder.")])]
    lines += [".SH EXAMPLES", ".EX", *map(_text, EXAMPLES), ".EE"]
    lines += [".SH SEE ALSO", _text("`purekv COMMAND --help`, and the pages in the folder docs of the source.")]
    return "\n".join(lines) + "\n"


def _verb(name: str, callback: Callable[..., Any]) -> Verb:
    entries = [_entry(parameter) for parameter in inspect.signature(callback).parameters.values()]
    return Verb(
        name,
        _summary(callback),
        tuple(entry for entry in entries if not entry.names),
        tuple(entry for entry in entries if entry.names),
    )


def _entry(parameter: inspect.Parameter) -> Entry:
    kind, info = get_args(parameter.annotation)[:2]
    named = isinstance(info, OptionInfo)
    # Typer keeps the first name of an annotated option where its default would stand
    names = tuple(str(info.default).split("/")) + tuple(info.param_decls or ()) if named else ()
    default = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
    plain = not info.show_default or any(default is nothing for nothing in (None, False, inspect.Parameter.empty))
    value = info.metavar or _value(kind)
    if not named:
        value = f"{value}..." if get_origin(kind) is list and "..." not in value else value
        value = value if default is inspect.Parameter.empty or value.startswith("[") else f"[{value}]"
    return Entry(names, value, f"{info.help or ''}{'' if plain else f' [{default}]'}", info.rich_help_panel or "")


def _value(kind: Any) -> str:
    """What stands for a value of that type."""
    if get_origin(kind) in (Union, types.UnionType, list):
        return _value(next(part for part in get_args(kind) if part is not type(None)))
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    if inspect.isclass(kind) and issubclass(kind, Enum):
        return "|".join(str(choice.value) for choice in kind)
    return {bool: "", int: "N", float: "X", Path: "FILE"}.get(kind, "TEXT")


def _synopsis(every: Sequence[Verb]) -> Iterator[str]:
    for verb in every:
        values = " ".join(f"\\fI{_text(argument.value)}\\fR" for argument in verb.arguments)
        yield f"\\fBpurekv {_text(verb.name)}\\fR [\\fIflags\\fR] {values}".rstrip()
        yield ".br"
    yield "\\fBpurekv \\-\\-version\\fR | \\fB\\-\\-help\\fR | \\fB\\-\\-install\\-completion\\fR"


def _command(verb: Verb, shared: Sequence[Entry]) -> Iterator[str]:
    yield f".SS purekv {_text(verb.name)}"
    yield _text(verb.summary)
    for entry in (*verb.arguments, *(flag for flag in verb.flags if flag not in shared)):
        yield from _described(entry)
    if others := [flag.names[0] for flag in verb.flags if flag in shared]:
        yield ".PP"
        yield _text(f"And of the shared flags {', '.join(others)}.")


def _described(entry: Entry) -> Iterator[str]:
    names = ", ".join(f"\\fB{_text(name)}\\fR" for name in entry.names)
    yield ".TP"
    yield f"{names} \\fI{_text(entry.value)}\\fR".strip() if entry.value else names
    yield _text(entry.help) or "\\&"


def _table(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    for name, meaning in rows:
        yield from (".TP", f"\\fB{_text(name)}\\fR", _text(meaning))


def _summary(callback: Callable[..., Any]) -> str:
    return (inspect.getdoc(callback) or "").partition("\n\n")[0].replace("\n", " ")


def _text(words: str) -> str:
    """Words that roff shows as they stand: hyphens that can be copied, `code` in bold."""
    plain = words.replace("\\", "\\e").replace("-", "\\-")
    plain = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", plain)
    return f"\\&{plain}" if plain.startswith((".", "'")) else plain


if __name__ == "__main__":
    when = time.gmtime(int(os.environ["SOURCE_DATE_EPOCH"])) if "SOURCE_DATE_EPOCH" in os.environ else time.gmtime()
    Path(sys.argv[1]).write_text(render(time.strftime("%Y-%m-%d", when)), encoding="utf-8")
