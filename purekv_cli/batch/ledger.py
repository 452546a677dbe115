"""The output file is the ledger: its first line says how was asked, every further line is one finished item.

A line is written whole, flushed and synced before the next item counts as done. A process that is killed, or a disk
that fills up, can at worst leave a torn last line, which the next run repairs; the operating system holds the lock and
drops it with the process. A later line of the same item replaces an earlier one (`--retry-failed`).
"""

import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from purekv_cli.batch.job import Key
from purekv_cli.errors import OutOfResources, UsageError

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
        try:
            new = not path.exists()
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            if new:
                _sync_folder(path.parent)
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                os.close(self._file)
                raise OSError(0, "it is no ordinary file")
        except OSError as error:
            raise UsageError(
                f"cannot write {str(path)!r}: {error.strerror}", "Choose a file in a folder you may write to."
            ) from error
        try:
            self._lock()
            self._read()
        except BaseException:
            self.close()
            raise

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Write the header of a new ledger."""
        self.settings = dict(settings)
        self._write({MARK: VERSION, "settings": self.settings})

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one item's record. Errors: OutOfResources; the file then ends where it did before."""
        self._write(record)
        self.status[key_of(record)] = record["status"]

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another run is writing {self.path}", "Wait for it, stop it, or give this run another -o."
            ) from None

    def _read(self) -> None:
        end, newline = 0, b""  # of the last line that counts, and what it lacks
        foreign = UsageError(f"{self.path} is not the output of a batch", "Give -o a new file.")
        with self.path.open("rb") as file:
            for line in file:
                if end == 0 and not _may_be_header(line):
                    raise foreign
                if not line.endswith(b"\n"):
                    if _parsed(line) is None:
                        break
                    newline = b"\n"
                end += len(line)
                self._take(_parsed(line))
        if end and self.settings is None:
            raise foreign
        os.ftruncate(self._file, end)
        self._put(newline)

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

    def _write(self, value: Mapping[str, Any]) -> None:
        before = os.fstat(self._file).st_size
        try:
            self._put(encoded(value))
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, before)
            raise OutOfResources(
                f"cannot write {self.path}: {error.strerror}",
                "Everything before is safe. Make room, then run the same command again.",
            ) from error

    def _put(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._file, data) :]


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The latest record of every item, in the order in which items first appear."""
    latest: dict[Key, int] = {}
    with path.open("rb") as file:
        offset = 0
        for line in file:
            if is_record(record := _parsed(line)):
                latest[key_of(record)] = offset
            offset += len(line)
        for place in latest.values():
            file.seek(place)
            yield _parsed_at(file)


def encoded(value: Mapping[str, Any]) -> bytes:
    """One line of JSON. File names that are no UTF-8 are escaped, so that they come back as they were."""
    try:
        return (json.dumps(value, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(value) + "\n").encode()


def key_of(record: Mapping[str, Any]) -> Key:
    return record.get("id"), record["video"], record.get("start"), record.get("end"), record["question"]


def is_record(value: dict[str, Any] | None) -> TypeGuard[dict[str, Any]]:
    return value is not None and {"video", "question", "status"} <= value.keys()


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _parsed_at(file: BinaryIO) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.readline())
    return found


def _may_be_header(line: bytes) -> bool:
    """Whether it is a header, or what a kill left of one."""
    begins = f'{{"{MARK}":'.encode()
    return line.startswith(begins) or (not line.endswith(b"\n") and begins.startswith(line))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
