"""TOML tables become frozen dataclasses, strictly: an unknown key or a wrong type is the user's error, with a hint.

Configuration files and presets are both read this way, so a misspelt key can never be ignored in silence.
"""

import types
from collections.abc import Collection, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from purekv_cli.errors import UsageError
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import Propagation

T = TypeVar("T")


def read_table(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """The dataclass `kind` filled from `table`; fields that are not named keep their defaults.

    Raises:
        UsageError: a key that `kind` lacks or a value of another type; `where` says in which file.
    """
    hints = get_type_hints(kind)
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise misspelt(key, known, where)
        values[name] = _convert(hints[name], value, f"{where}: {key}")
    return kind(**values)


def misspelt(key: str, known: Collection[str], where: str) -> UsageError:
    """The error for a key that is none of `known`."""
    near = get_close_matches(key.replace("-", "_"), known, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}?" if near else f"It knows: {', '.join(sorted(known))}."
    return UsageError(f"{where}: there is no setting {key!r}", hint)


def _convert(wanted: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        options = [a for a in arguments if a is not type(None)]
        return _convert(options[0], value, where)
    if origin is Literal:
        if value in arguments:
            return value
        raise UsageError(f"{where} cannot be {value!r}", f"Choose one of: {', '.join(map(str, arguments))}.")
    if wanted is Budget:
        return Budget.parse(str(value))
    if wanted is Propagation:
        return Propagation.parse(str(value))
    if hasattr(wanted, "__dataclass_fields__") and isinstance(value, Mapping):
        return read_table(wanted, value, where)
    if origin is tuple and isinstance(value, list):
        inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(inner) == len(value):
            return tuple(_convert(kind, item, where) for kind, item in zip(inner, value, strict=True))
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is Path and isinstance(value, str):
        return Path(value).expanduser()
    if isinstance(wanted, type) and isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool)):
        return value
    name = getattr(wanted, "__name__", None) if not origin else str(wanted)
    raise UsageError(f"{where} cannot be {value!r}", f"It takes a value of type {name}.")
