"""What a clip is, by its bytes: names and times of files may change or lie, a digest doesn't.

There is no shortcut by size and time: a probe reads the whole file anyway, and hashing it again from memory, eight
pieces at a time, costs less than that.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from purekv_cli.video.images import list_images

PIECE = 8 * 2**20  # bytes


Stamp = tuple[tuple[int, int, int, int], ...]


def digest(path: Path) -> str:
    """SHA-256 over those of all pieces of a file, or of a folder's images with their names.

    Raises:
        OSError: it cannot be read.
    """
    whole = hashlib.sha256()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for file in _files(path):
            with file.open("rb") as opened:
                handle, size = opened.fileno(), os.fstat(opened.fileno()).st_size
                whole.update(f"{file.name if path.is_dir() else ''}/{size}/".encode("utf-8", "surrogateescape"))
                for part in pool.map(lambda start, of=handle: _piece(of, start), range(0, size, PIECE)):
                    whole.update(part)
    return whole.hexdigest()


def stamp(path: Path) -> Stamp:
    """What changes whenever someone writes to the file, or to one of a folder's images, while we work."""
    states = (file.stat() for file in _files(path))
    return tuple((state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for state in states)


def _files(path: Path) -> list[Path]:
    return list_images(path) if path.is_dir() else [path]


def _piece(handle: int, start: int) -> bytes:
    found, end = hashlib.sha256(), start + PIECE
    while start < end and (data := os.pread(handle, end - start, start)):
        found.update(data)
        start += len(data)
    return found.digest()
