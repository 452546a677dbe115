"""The files of a user: found by key, listed, cleared; the least recently used ones go when they grow beyond a limit.

Any number of processes may work in the folder. A file is only ever replaced by a whole one or removed, and who has it
open keeps it; a use sets the file's time, which is what eviction goes by.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from purekv_cli.settings import cache_path
from purekv_cli.store.header import Damaged, Header, read_header

SUFFIX = ".safetensors"
SPARE = 2**30  # bytes that stay free on the disk
_DEAD = 600  # s without a write: whoever was writing that file aside is gone


class NotKept(Exception):
    """Why a file cannot be kept, in words."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file."""

    path: Path
    bytes: int
    used: float  # when it was last read or written, s since 1970
    header: Header | None  # None: damaged, or of another version


@dataclass(frozen=True, slots=True)
class Folder:
    """Where caches are kept."""

    path: Path

    @classmethod
    def of_user(cls) -> "Folder":
        return cls(cache_path() / "kv")

    def place(self, name: str) -> Path:
        """Where the file of a key is, or would be."""
        return self.path / f"{name}{SUFFIX}"

    def of_clip(self, name: str) -> Iterator[Path]:
        """The files whose names begin with that."""
        return self.path.glob(f"{name}*{SUFFIX}")

    def touch(self, file: Path) -> None:
        """It was of use."""
        with suppress(OSError):
            os.utime(file)

    def make_room(self, need: int, limit: int, instead: Path) -> None:
        """See that `need` bytes fit, in a folder that exists afterwards.

        Args:
            limit: bytes of all files. instead: a file that the new one will replace.

        Raises:
            NotKept: they cannot. OSError: the folder cannot be written.
        """
        from purekv_cli.report.units import size

        if need > limit:
            raise NotKept(f"it takes {size(need)}, and --cache-limit is {size(limit)}")
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweep()
        files = sorted((used, size, path) for path, size, used in self._files() if path != instead)
        total = sum(size for _, size, _ in files)
        for _, bytes_, path in files:
            if total + need <= limit:
                break
            path.unlink(missing_ok=True)
            total -= bytes_
        free = shutil.disk_usage(self.path).free
        if free < need + SPARE:
            raise NotKept(f"it takes {size(need)}, and only {size(free)} are free on the disk of {self.path}")

    def entries(self) -> list[Entry]:
        """All files, the last used first."""
        found = []
        for path, size, used in self._files():
            try:
                header: Header | None = read_header(path)
            except Damaged:
                header = None
            found.append(Entry(path, size, used, header))
        return sorted(found, key=lambda entry: -entry.used)

    def clear(self, entries: list[Entry]) -> int:
        """Remove files, and what was left by writers that are gone; bytes that were freed."""
        freed = self._sweep()
        for entry in entries:
            with suppress(FileNotFoundError):
                entry.path.unlink()
                freed += entry.bytes
        return freed

    def _files(self) -> Iterator[tuple[Path, int, float]]:
        yield from _stated(self.path.glob(f"[!.]*{SUFFIX}"))

    def _sweep(self) -> int:
        freed = 0
        for path, size, written in _stated(self.path.glob(f".*{SUFFIX}.*")):
            if time.time() - written > _DEAD:
                path.unlink(missing_ok=True)
                freed += size
        return freed


def _stated(paths: Iterator[Path]) -> Iterator[tuple[Path, int, float]]:
    """With size and time; others may remove files meanwhile."""
    for path in paths:
        with suppress(FileNotFoundError):
            state = path.stat()
            yield path, state.st_size, state.st_mtime
