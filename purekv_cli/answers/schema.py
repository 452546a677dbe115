"""A JSON schema that answers must be valid under; checked by the package jsonschema, an extra."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purekv_cli.answers.extract import values
from purekv_cli.errors import UsageError

_HINT = 'Give a file with a JSON schema, or the schema itself in quotes: \'{"type": "object", ...}\'.'
_SHOWN = 300  # characters of a reason


class Invalid(Exception):
    """Why an answer cannot be used, in one sentence without its full stop."""


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema that was found to be one."""

    text: str  # as the model reads it
    validator: Any  # of jsonschema

    @classmethod
    def read(cls, wish: str) -> "Schema":
        """The schema in a file, or written out.

        Raises:
            UsageError: no such file, no JSON, no valid schema, or one that other documents are part of; jsonschema is
                not installed.
        """
        try:
            from jsonschema import SchemaError
            from jsonschema.validators import Draft202012Validator, validator_for
            from referencing import Registry
        except ImportError:
            raise UsageError("--schema needs the package jsonschema", 'pip install "purekv[schema]"') from None
        where, raw = _raw(wish)
        try:
            schema = json.loads(raw)
            if not isinstance(schema, dict | bool):
                raise SchemaError("it is neither an object nor true or false")
            kind = validator_for(schema, default=Draft202012Validator)
            kind.check_schema(schema, format_checker=kind.FORMAT_CHECKER)  # patterns must compile
        except json.JSONDecodeError as error:
            raise UsageError(f"{where} is not JSON: {error}", _HINT) from None
        except SchemaError as error:
            raise UsageError(f"{where} is no JSON schema: {_reason(error)}", _HINT) from None
        except RecursionError:
            raise UsageError(f"{where} is nested too deeply", _HINT) from None
        for target in _references(schema):
            if not target.startswith("#"):
                raise UsageError(f"{where} refers to {target}, another document", "Give one schema that holds it all.")
        checked = cls(json.dumps(schema, ensure_ascii=False), kind(schema, registry=Registry()))
        checked._resolve(where, schema)
        return checked

    @property
    def form(self) -> str:
        """What the question says of the answer's form."""
        return f"Answer with JSON only, without any other text. It must be valid under this JSON schema:\n{self.text}"

    def value(self, answer: str) -> Any:
        """The JSON that the answer holds.

        Raises:
            Invalid: there is none, or none that is valid.
        """
        wrong = None
        for value in values(answer):
            error = self._error(value)
            if error is None:
                return value
            wrong = wrong or error
        raise Invalid(wrong or "there is no JSON in it")

    def _error(self, value: Any) -> str | None:
        from jsonschema.exceptions import best_match

        try:
            error = best_match(self.validator.iter_errors(value))
        except RecursionError:
            return "it is nested too deeply"
        return None if error is None else _reason(error)

    def _resolve(self, where: str, schema: Any) -> None:
        """References within the schema lead somewhere: else some answer would find out."""
        from referencing import Registry
        from referencing.exceptions import Unresolvable
        from referencing.jsonschema import DRAFT202012

        if not isinstance(schema, dict) or any("$id" in part for part in _objects(schema) if part is not schema):
            return  # a part with an address of its own changes what "#" means
        resolver = Registry().resolver_with_root(DRAFT202012.create_resource(schema))
        for target in _references(schema):
            try:
                resolver.lookup(target)
            except Unresolvable:
                raise UsageError(f"{where} refers to {target}, which is not in it", _HINT) from None


def _raw(wish: str) -> tuple[str, str]:
    """(what it is called, its text)"""
    if wish.lstrip().startswith("{"):
        return "--schema", wish
    try:
        return wish, Path(wish).expanduser().read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{wish} is not text", _HINT) from None
    except OSError as error:
        raise UsageError(f"cannot read the schema {wish}: {error.strerror}", _HINT) from None


def _reason(error: Any) -> str:
    """ "$.people[0]: 'name' is a required property", cut where values are long."""
    place = "" if error.json_path == "$" else f"{error.json_path}: "
    said = " ".join(f"{place}{error.message}".split())
    return said if len(said) <= _SHOWN else said[: _SHOWN - 3] + "..."


def _objects(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    for each in inner:
        yield from _objects(each)


def _references(schema: Any) -> Iterator[str]:
    for part in _objects(schema):
        for name in ("$ref", "$dynamicRef"):
            if isinstance(part.get(name), str):
                yield part[name]
