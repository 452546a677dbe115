"""Finished work on disk, one JSON line a result, so that a run that was stopped goes on where it was.

The first line holds the settings that every result depends on; a file of other settings is refused, never mixed. What
a crash tore off at the end is done again. Files of the same settings may be concatenated.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from purekv_cli.errors import UsageError
from purekv_cli.ledger import LineFile, encoded, parsed

SCHEMA_VERSION = 1
_HINT = "Name another file for the results, or run with the settings of this one."

Row = dict[str, Any]
Key = tuple[Any, ...]


class Ledger:
    """An append-only file of results; without a path it only remembers."""

    def __init__(self, path: Path | None, settings: Mapping[str, Any], key: Sequence[str]) -> None:
        """Read what is there and open the file for more.

        Args:
            settings: values of JSON that all results depend on.
            key: the fields of a result that tell it from all others.

        Raises:
            UsageError: the file cannot be written, is something else, or was made with other settings.
        """
        self.done: dict[Key, Row] = {}  # in the order of the file; of equal keys the last line counts
        self._path, self._fields = path, tuple(key)
        self._settings: Row = json.loads(json.dumps(settings))  # as they are read back
        self._file = LineFile(path) if path else None
        if self._file:
            try:
                self._continue(self._file)
            except BaseException:
                self._file.close()
                raise

    @property
    def _header(self) -> Row:
        return {"schema_version": SCHEMA_VERSION, "settings": self._settings}

    def key(self, row: Mapping[str, Any]) -> Key:
        """What `done` knows a result by."""
        return tuple(row[field] for field in self._fields)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append results that belong together; a crash from now on leaves them there."""
        lines = [dict(row) for row in rows]
        self.done |= {self.key(line): line for line in lines}
        if self._file:
            self._file.append(b"".join(map(encoded, lines)))

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()

    def _continue(self, file: LineFile) -> None:
        """Remember every whole line, and cut off what is none."""
        whole = 0
        for number, text in enumerate(file, 1):
            if not text.endswith(b"\n"):
                if whole or encoded(self._header).startswith(text):
                    break  # torn: it is cut off and its work done again
                raise self._foreign(number)
            line = parsed(text) or {}
            if "settings" in line:
                self._check(line)
            elif whole and all(field in line for field in self._fields):
                self.done[self.key(line)] = line
            else:
                raise self._foreign(number)
            whole += len(text)
        file.cut(whole)
        if not whole:
            file.append(encoded(self._header))

    def _check(self, line: Row) -> None:
        if line.get("schema_version") != SCHEMA_VERSION:
            raise UsageError(f"{self._path} was written by another version of purekv", _HINT)
        there = line["settings"]
        for name in {**self._settings, **there}:
            was, now = there.get(name), self._settings.get(name)
            if was != now:
                raise UsageError(
                    f"{self._path} holds results of other settings: {name} was {was!r}, now it is {now!r}", _HINT
                )

    def _foreign(self, number: int) -> UsageError:
        return UsageError(f"line {number} of {self._path} is no result of this kind", "Name another file, or mend it.")
