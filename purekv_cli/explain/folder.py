"""The folder that is written: whether it can be is found out first; its files are made aside and then moved in."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from purekv_cli.errors import OutOfResources, UsageError


def check_folder(folder: Path) -> None:
    """Raise UsageError unless files could be written there; a folder whose parent exists will be made."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{str(folder)!r} is a file, not a folder", "Name a folder: -o kept.")
    holder = folder if folder.exists() else folder.parent
    if not holder.is_dir():
        raise UsageError(f"there is no folder {str(holder)!r} to write into", "Create it first, or write elsewhere.")
    if not os.access(holder, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write into {str(holder)!r}", "Choose a folder you may write to.")


@contextmanager
def moved_into(folder: Path) -> Iterator[Path]:
    """An empty folder whose files are moved into `folder` when all of them are there; after an error, none is.

    Raises:
        OutOfResources: the disk said no.
    """
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".explain.") as aside:
            yield Path(aside)
            for made in sorted(Path(aside).iterdir()):
                made.replace(folder / made.name)
    except OSError as error:
        raise OutOfResources(
            f"cannot write into {str(folder)!r}: {error.strerror or error}", "Free some space, then ask again."
        ) from error
