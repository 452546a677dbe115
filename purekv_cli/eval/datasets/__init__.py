"""Questions about videos from files: one's own JSONL, or a data set as it is published.

What cannot be asked is no reason to stop: every bad line or record becomes a `Problem`, and the others are asked.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from purekv_cli.errors import UnreadableInput
from purekv_cli.eval.datasets import own
from purekv_cli.eval.datasets.avsd import AVSD
from purekv_cli.eval.datasets.entry import BadEntry, Entry, item_of
from purekv_cli.eval.datasets.layout import Layout
from purekv_cli.eval.datasets.longvideobench import LONGVIDEOBENCH
from purekv_cli.eval.datasets.mlvu import MLVU
from purekv_cli.eval.datasets.mvbench import MVBENCH
from purekv_cli.eval.datasets.video_mme import VIDEO_MME
from purekv_cli.eval.records import Item

LAYOUTS: tuple[Layout, ...] = (VIDEO_MME, MVBENCH, LONGVIDEOBENCH, MLVU, AVSD)


@dataclass(frozen=True, slots=True)
class Problem:
    """An entry that cannot be asked."""

    where: str
    what: str


@dataclass(frozen=True, slots=True)
class DataSet:
    """What a file or folder holds."""

    name: str
    folder: Path  # video paths begin here
    items: tuple[Item, ...]  # in the order of the files
    problems: tuple[Problem, ...]


def load(path: Path) -> DataSet:
    """Read a JSONL file, a published annotation file, or a folder with one of them.

    Raises:
        UnreadableInput: no such file, a folder or a file of an unknown layout, JSON that is broken as a whole.
        UsageError: a parquet file without pyarrow.
    """
    if not path.exists():
        raise UnreadableInput(f"{path} does not exist", "Give a .jsonl file, a data set's folder, or clipworld.")
    for layout in LAYOUTS:
        folder = path if path.is_dir() else layout.folder_of(path)
        files = layout.find(path) if path.is_dir() else [path]
        if folder is not None and files:
            entries = (entry for file in files for entry in layout.read(file, folder))
            return _checked(layout.name, folder, entries)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if path.suffix == ".jsonl" else []
    if len(files) != 1:
        known = ", ".join(layout.name for layout in LAYOUTS)
        what = f"{path} holds {len(files) or 'no'} .jsonl file{'s' if len(files) > 1 else ''} and no known data set"
        raise UnreadableInput(
            what if path.is_dir() else f"{path.name} is no data file that is known", f"Known are .jsonl files, {known}."
        )
    return _checked(files[0].stem, files[0].parent, own.read(files[0]))


def _checked(name: str, folder: Path, entries: Iterable[Entry]) -> DataSet:
    items: dict[str, tuple[str, Item]] = {}
    problems = []
    for entry in entries:
        try:
            item = item_of(entry, folder, name)
            if item.id in items:
                raise BadEntry(f"the id {item.id!r} is already that of {items[item.id][0]}")
        except BadEntry as error:
            problems.append(Problem(entry.where, str(error)))
            continue
        items[item.id] = (entry.where, item)
    return DataSet(name, folder, tuple(item for _, item in items.values()), tuple(problems))
