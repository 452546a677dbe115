"""What a clip is, by its bytes: names and times of files may change or lie, a digest doesn't.

Size and time are no shortcut to it from one run to the next: hashing a file from memory, many pieces at a time, takes
less than the rest of a run.
"""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from purekv_cli.video.images import list_images

PIECE = 2**20  # bytes
_QUIET = 2 * 10**9  # ns since a change, from which on the next one surely shows: the clocks of file systems are coarse


Stamp = tuple[tuple[int, int, int, int], ...]
_last: dict[Path, tuple[Stamp, str]] = {}  # one run asks for a clip's digest more than once


def digest(path: Path) -> str:
    """SHA-256 over those of all pieces of a file, or of a folder's images with their names.

    Raises:
        OSError: it cannot be read.
    """
    path, now, seen = path.absolute(), time.time_ns(), stamp(path)
    if path in _last and _last[path][0] == seen:
        return _last[path][1]
    found = _digest(path)
    _last.clear()
    if all(max(changes) + _QUIET < now for changes in (state[2:] for state in seen)):
        _last[path] = seen, found
    return found


def forget() -> None:
    """Take the next digest from the bytes, as another process would."""
    _last.clear()


def _digest(path: Path) -> str:
    whole = hashlib.sha256()
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
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
