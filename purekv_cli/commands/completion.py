"""What the shell offers behind a flag: names that are known, and files that may be videos.

Nothing here imports torch or numpy: an answer that takes a second is no help. Where the shell's own completion of files
knows better (folders to go into, names that need quotes), nothing is offered, and every shell then falls back to it.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from inspect import Parameter
from pathlib import Path

from typer.models import ArgumentInfo, OptionInfo

Offer = str | tuple[str, str]  # a value, or with what it is
Complete = Callable[[str], list[Offer]]  # of what has been typed

_PLAIN = re.compile(r"[\w@%+,./-]*")  # needs no quotes in any shell


def models(typed: str) -> list[Offer]:
    """Names of -m: embedded, released, in the local cache."""
    from purekv_cli.models.registry import ALIASES, AUTO, DEMO, SUPPORTED, cached_models

    known: list[Offer] = [(AUTO, "what is here"), (DEMO, "embedded"), *ALIASES.items()]
    known += [(model.name, "in the cache") for model in cached_models() if model.architecture in SUPPORTED]
    return _beginning(typed, known)


def presets(typed: str) -> list[Offer]:
    """Shipped presets; a file of one's own is the shell's to complete."""
    from purekv_cli.presets import DEFAULT, shipped

    return _beginning(typed, [(preset.name, preset.title) for preset in (*shipped().values(), DEFAULT)])


def policies(typed: str) -> list[Offer]:
    """By the modules that hold them, for importing them takes torch."""
    folder = Path(__file__).parent.parent / "method" / "policies"
    names = sorted(path.stem.replace("_", "-") for path in folder.glob("*.py") if path.stem not in ("__init__", "base"))
    return _beginning(typed, [*names])


def suites(typed: str) -> list[Offer]:
    """Of the rendered world."""
    from purekv_cli.demo.suites import SUITES

    return _beginning(typed, [(name, f"{length} temporal patches") for name, length in SUITES.items()])


def videos(typed: str) -> list[Offer]:
    """Files that may be videos or pictures, where no folder could be meant as well."""
    from purekv_cli.video.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES

    head = typed[: typed.rfind("/") + 1]
    found = []
    for entry in os.scandir(head or "."):
        name = head + entry.name
        if not name.startswith(typed) or (entry.name.startswith(".") and typed == head):
            continue
        if entry.is_dir():
            return []
        if Path(name).suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
            found.append(name)
    return [*sorted(found)] if all(map(_PLAIN.fullmatch, found)) else []


def in_list(complete: Complete) -> Complete:
    """The same for names with commas between them."""

    def last(typed: str) -> list[Offer]:
        head = typed[: typed.rfind(",") + 1]
        given = head.split(",")
        return [_after(head, each) for each in complete(typed[len(head) :]) if _value(each) not in given]

    return last


FLAGS: dict[str, Complete] = {
    "--model": models,
    "--preset": presets,
    "--policy": policies,
    "--suite": suites,
    "--also": videos,
}


def offer(parameters: Iterable[Parameter]) -> None:
    """Give the parameters of a verb their completion: flags by their name, arguments that are called VIDEO."""
    for parameter in parameters:
        (info,) = parameter.annotation.__metadata__
        if complete := FLAGS.get(str(info.default)) if isinstance(info, OptionInfo) else _of_argument(info):
            info.autocompletion = _quiet(in_list(complete) if info.metavar == "LIST" else complete)


def _of_argument(info: ArgumentInfo) -> Complete | None:
    return videos if "VIDEO" in (info.metavar or "") else None


def _quiet(complete: Complete) -> Callable[[str], Iterator[Offer]]:
    """A shell that waits for an answer is no place for errors."""

    def offers(incomplete: str) -> Iterator[Offer]:
        try:
            yield from complete(incomplete)
        except Exception:
            return

    return offers


def _beginning(typed: str, known: list[Offer]) -> list[Offer]:
    return [each for each in known if _value(each).startswith(typed)]


def _value(each: Offer) -> str:
    return each if isinstance(each, str) else each[0]


def _after(head: str, each: Offer) -> Offer:
    return head + each if isinstance(each, str) else (head + each[0], each[1])
