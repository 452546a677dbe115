"""A file of JSON lines that only grows: what `batch` and `eval` go on from after they were stopped.

Lines are written whole, flushed and synced before their work counts as done. A process that is killed can at worst
leave a torn last line, which whoever opens the file next cuts off; a write that fails leaves the file as it was. One
run at a time writes: the operating system holds the lock and drops it with the process.
"""

import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from purekv_cli.errors import OutOfResources, UsageError


class LineFile:
    """An open, locked file. Errors: UsageError when it may not be written, or another run is writing it."""

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, -1
        try:
            new = not path.exists()
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            if new:
                _sync_folder(path.parent)
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise OSError(0, "it is no ordinary file")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            if isinstance(error, BlockingIOError):
                raise UsageError(
                    f"another run is writing {path}", "Wait for it, stop it, or give this run another -o."
                ) from None
            raise UsageError(
                f"cannot write {str(path)!r}: {error.strerror}", "Choose a file in a folder you may write to."
            ) from error

    def __iter__(self) -> Iterator[bytes]:
        """Every line; the last may be torn."""
        with self.path.open("rb") as file:
            yield from file

    def cut(self, size: int) -> None:
        """Keep so many bytes."""
        os.ftruncate(self._file, size)

    def append(self, data: bytes) -> None:
        """Write lines that belong together. Errors: OutOfResources; the file then ends where it did before."""
        before = os.fstat(self._file).st_size
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as error:
            self.cut(before)
            raise OutOfResources(
                f"cannot write {self.path}: {error.strerror}",
                "Everything before is safe. Make room, then run the same command again.",
            ) from error

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def encoded(value: Mapping[str, Any]) -> bytes:
    """One line of JSON. File names that are no UTF-8 are escaped, so that they come back as they were."""
    try:
        return (json.dumps(value, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(value) + "\n").encode()


def parsed(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None: it is none."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
