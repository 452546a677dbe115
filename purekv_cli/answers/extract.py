"""JSON in what a model says: alone, in a fence of backticks, or with words around it. Nothing is repaired."""

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

_FENCE = re.compile(r"^ *```[^\n`]*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def values(text: str) -> Iterator[Any]:
    """Every JSON value in the text, the likeliest to be meant first.

    The whole text; then the content of fences; then objects and lists in running text, outermost ones only: what stands
    inside a broken object is not taken for one of its own.
    """
    for whole in (text, *(match[1] for match in _FENCE.finditer(text))):
        try:
            yield _DECODER.decode(whole.strip())
        except (ValueError, RecursionError):
            continue
        if whole is text:
            return
    yield from _inside(text)


def _inside(text: str) -> Iterator[Any]:
    place = 0
    while (opens := re.compile(r"[{\[]").search(text, place)) is not None:
        try:
            value, place = _DECODER.raw_decode(text, opens.start())
        except json.JSONDecodeError as error:
            place = max(error.pos, opens.end())
        except (ValueError, RecursionError):
            return
        else:
            yield value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_number)
