"""What the published data sets have in common: annotation files in known places of a folder, videos beside them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from purekv_cli.errors import UnreadableInput
from purekv_cli.eval.datasets.entry import Entry
from purekv_cli.video.images import VIDEO_SUFFIXES


@dataclass(frozen=True, slots=True)
class Layout:
    """One data set as it is published."""

    name: str
    patterns: tuple[str, ...]  # of annotation files, relative to its folder; the first that matches any file counts
    read: Callable[[Path, Path], Iterator[Entry]]  # (annotation file, folder)

    def find(self, folder: Path) -> list[Path]:
        """The annotation files that a folder means."""
        for pattern in self.patterns:
            if found := sorted(folder.glob(pattern)):
                return found
        return []

    def folder_of(self, path: Path) -> Path | None:
        """The folder of the data set that an annotation file belongs to."""
        for folder in (path.parent, path.parent.parent):
            if any(path in folder.glob(pattern) for pattern in self.patterns):
                return folder
        return None


def read_json(path: Path) -> Any:
    """A JSON file, or UnreadableInput that says where it breaks."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UnreadableInput(f"{path} is not valid JSON: {error}", "Fetch or export it again.") from error


def records(path: Path, found: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of a list of objects.

    Raises:
        UnreadableInput: it is something else.
    """
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise UnreadableInput(f"{path} is not a list of records", "Fetch or export it again.")
    for number, record in enumerate(found, 1):
        yield f"{path.name}, record {number}", record


def option_number(record: dict[str, Any]) -> int | None:
    """Which of the `candidates` is the `answer`, word for word; None if none or several are."""
    candidates = record.get("candidates")
    options = candidates if isinstance(candidates, list) else []
    same = [n for n, option in enumerate(options) if option == record.get("answer")]
    return same[0] if len(same) == 1 else None


def video_of(folder: Path, stem: str) -> str:
    """The video of that name without suffix anywhere below the folder; else a name that no file has."""
    return str(_videos(folder).get(stem, f"{stem}.mp4"))


@lru_cache(maxsize=1)
def _videos(folder: Path) -> dict[str, Path]:
    files = (path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    return {path.stem: path.relative_to(folder) for path in sorted(files, reverse=True)}
