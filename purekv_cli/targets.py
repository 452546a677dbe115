"""Whether a file that was asked for can be written: found out before hours of work, not after."""

import os
from collections.abc import Collection
from pathlib import Path

from purekv_cli.errors import UsageError


def check_target(path: Path | None, suffixes: Collection[str]) -> None:
    """UsageError unless a file of this name, with one of these suffixes, can be written."""
    if path is None:
        return
    cannot = f"cannot write {str(path)!r}"
    if path.suffix.lower() not in suffixes:
        ends = " or ".join(suffixes)
        raise UsageError(f"{cannot}: its name should end in {ends}", f"Name it {path.stem}{ends}.")
    if not path.parent.is_dir():
        raise UsageError(f"{cannot}: there is no such folder", "Create it first, or choose another folder.")
    if path.is_dir() or not all(os.access(place, os.W_OK) for place in (path.parent, path) if place.exists()):
        raise UsageError(cannot, "Choose a file in a folder you may write to.")
