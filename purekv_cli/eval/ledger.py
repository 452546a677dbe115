"""Finished work on disk, one JSON line a result, so that a run that was stopped goes on where it was.

The first line holds the settings that every result depends on; a file of other settings is refused, never mixed. Lines
are flushed as soon as they are whole. What a crash tore off at the end is cut away when the file is opened again, and
that work is done again. Files of the same settings may be concatenated.
"""

import fcntl
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from purekv_cli.errors import UsageError

SCHEMA_VERSION = 1
_UTF8 = ("utf-8", "backslashreplace")  # what is no text in a file name becomes an escape of JSON
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
        self._path, self._fields, self._stream = path, tuple(key), None
        self._settings: Row = json.loads(json.dumps(settings))  # as they are read back
        if path is None:
            return
        try:
            self._stream = path.open("ab")
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system drops it with the process
            whole = self._read(path)
            self._stream.truncate(whole)
        except BlockingIOError:
            raise UsageError(f"another run is writing {path}", "Wait for it, or name another file.") from None
        except OSError as error:
            raise UsageError(
                f"cannot write {str(path)!r}: {error.strerror}", "Choose a file in a folder you may write to."
            ) from error
        if not whole:
            self._write([self._header])

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
        self._write(lines)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream:
            self._stream.close()

    def _write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        if self._stream:
            self._stream.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode(*_UTF8))
            self._stream.flush()

    def _read(self, path: Path) -> int:
        """Remember every whole line; the bytes that they take."""
        whole = 0
        with path.open("rb") as stream:
            for number, text in enumerate(stream, 1):
                if not text.endswith(b"\n"):
                    if whole or json.dumps(self._header, ensure_ascii=False).encode(*_UTF8).startswith(text):
                        break  # torn: it is cut off and its work done again
                    raise self._foreign(number)
                line = _parse(text)
                if "settings" in line:
                    self._check(line)
                elif whole and all(field in line for field in self._fields):
                    self.done[self.key(line)] = line
                else:
                    raise self._foreign(number)
                whole += len(text)
        return whole

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


def _parse(text: bytes) -> Row:
    try:
        line = json.loads(text)
    except ValueError:
        return {}
    return line if isinstance(line, dict) else {}
