"""A temporary folder that goes with its process: at the end of the block, or when the next one finds its owner killed.

The owner holds a lock on a file in the folder, which the system takes away with the process (POSIX only).
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: what a killed process leaves behind stays
    fcntl = None  # type: ignore[assignment]

PREFIX, LOCK = "purekv-video-", ".lock"
YOUNG = 60.0  # s: a folder may not be locked yet


@contextmanager
def passing_folder() -> Iterator[Path]:
    """An empty folder (but for the lock) in the system's temporary one."""
    if fcntl:
        _sweep()
    folder = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
    with folder as name, Path(name, LOCK).open("w") as lock:
        if fcntl:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(name)


def _sweep() -> None:
    """Remove the folders that nobody holds any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime < YOUNG:
                continue
            with Path(folder, LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # held, gone, or somebody else's
            continue
