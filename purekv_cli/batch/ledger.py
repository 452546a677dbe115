"""The output file is the ledger: its first line says how was asked, every further line is one finished item.

A later line of the same item replaces an earlier one (`--retry-failed`).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from purekv_cli.batch.job import Key
from purekv_cli.errors import UsageError
from purekv_cli.ledger import LineFile, encoded, parsed

MARK = "purekv_batch"  # the header's first key: its value is the version of this format
VERSION = 1
ANSWERED, FAILED = "answered", "failed"


class Ledger:
    """An open, locked ledger. Errors: UsageError when it is not one, in use, or may not be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings: dict[str, Any] | None = None  # of the header; None in a new file
        self.status: dict[Key, str] = {}  # of every item, by its latest line
        self.unreadable = 0  # lines that are no records: their items are asked again
        self._file = LineFile(path)
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Write the header of a new ledger."""
        self.settings = dict(settings)
        self._file.append(encoded({MARK: VERSION, "settings": self.settings}))

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one item's record. Errors: OutOfResources; the file then ends where it did before."""
        self._file.append(encoded(record))
        self.status[key_of(record)] = record["status"]

    def close(self) -> None:
        self._file.close()

    def _read(self) -> None:
        end, newline = 0, b""  # of the last line that counts, and what it lacks
        foreign = UsageError(f"{self.path} is not the output of a batch", "Give -o a new file.")
        for line in self._file:
            if end == 0 and not _may_be_header(line):
                raise foreign
            if not line.endswith(b"\n"):
                if parsed(line) is None:
                    break
                newline = b"\n"
            end += len(line)
            self._take(parsed(line))
        if end and self.settings is None:
            raise foreign
        self._file.cut(end)
        if newline:
            self._file.append(newline)

    def _take(self, record: dict[str, Any] | None) -> None:
        if record is not None and MARK in record:
            if self.settings is None:
                self.settings = record.get("settings", {})
            elif record.get("settings") != self.settings:
                raise UsageError(f"{self.path} holds runs of different settings", "Keep them in files of their own.")
        elif is_record(record):
            self.status[key_of(record)] = record["status"]
        else:
            self.unreadable += 1


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The latest record of every item, in the order in which items first appear."""
    latest: dict[Key, int] = {}
    with path.open("rb") as file:
        offset = 0
        for line in file:
            if is_record(record := parsed(line)):
                latest[key_of(record)] = offset
            offset += len(line)
        for place in latest.values():
            file.seek(place)
            yield _parsed_at(file)


def key_of(record: Mapping[str, Any]) -> Key:
    return record.get("id"), record["video"], record.get("start"), record.get("end"), record["question"]


def is_record(value: dict[str, Any] | None) -> TypeGuard[dict[str, Any]]:
    return value is not None and {"video", "question", "status"} <= value.keys()


def _parsed_at(file: BinaryIO) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.readline())
    return found


def _may_be_header(line: bytes) -> bool:
    """Whether it is a header, or what a kill left of one."""
    begins = f'{{"{MARK}":'.encode()
    return line.startswith(begins) or (not line.endswith(b"\n") and begins.startswith(line))
