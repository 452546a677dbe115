"""From what a command line names to items: folders, globs, files, lists on stdin, JSONL jobs.

What the user typed must exist (a misspelt folder is found before any work); what a list names may not, because a list
of ten thousand is not stopped by one: it becomes a failure in the ledger.
"""

import glob
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from purekv_cli.batch.job import Item, Key
from purekv_cli.batch.lines import items_of_lines
from purekv_cli.errors import UnreadableInput, UsageError
from purekv_cli.video.source import is_url


@dataclass(frozen=True, slots=True)
class Wanted:
    """Everything that is asked, in order, each item once."""

    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()  # what was left out, and why


def collect(
    paths: Sequence[str], questions: Sequence[str], stdin: Iterable[str] = (), *, probing: bool = False
) -> Wanted:
    """The items that paths and questions mean.

    Args:
        paths: folders, files, patterns, http(s) addresses, .jsonl files of jobs, or "-" for `stdin`.
        probing: folders are searched by opening every file, not by extension.

    Raises:
        UsageError: no questions, a pattern or folder without videos, a job that cannot be read.
        UnreadableInput: a path that does not exist.
    """
    found: dict[Key, Item] = {}
    notes: list[str] = []
    total = 0
    for path in paths:
        for item in _items(path, questions, stdin, probing, notes):
            total += 1
            found.setdefault(item.key, item)
    if total > len(found):
        notes.append(f"{total - len(found)} of {total} questions are there more than once and asked once")
    return Wanted(tuple(found.values()), tuple(notes))


def read_questions(path: Path) -> list[str]:
    """One question a line; empty lines and lines that begin with # are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the questions in {path}: {error}", "Give a text file, one a line.") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def shard_of(items: Sequence[Item], shard: str) -> tuple[Item, ...]:
    """The part `i/n` of the items. By a hash of the path, so that it stays the same when videos are added."""
    index, _, count = shard.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UsageError(f"--shard {shard} is no part", "Write the first of four parts as 1/4.")
    part, parts = int(index) - 1, int(count)
    return tuple(i for i in items if zlib.crc32(os.fsencode(i.video)) % parts == part)


def _items(
    path: str, questions: Sequence[str], stdin: Iterable[str], probing: bool, notes: list[str]
) -> Iterator[Item]:
    if path == "-":
        yield from items_of_lines(stdin, questions, "stdin")
        return
    if path.endswith(".jsonl") and Path(path).is_file():
        with Path(path).open(encoding="utf-8", errors="surrogateescape") as lines:
            yield from items_of_lines(lines, questions, path)
        return
    if not questions:
        raise UsageError("there is no question", 'Ask one: purekv batch PATH -q "what happens?" -o out.jsonl')
    for video in _videos(path, probing, notes):
        yield from (Item(video, question) for question in questions)


def _videos(path: str, probing: bool, notes: list[str]) -> Iterator[str]:
    if is_url(path):
        yield path
        return
    place = os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 - links stay what they are called
    if Path(place).is_dir():
        yield from _in_folder(place, probing, notes)
    elif Path(place).exists():
        yield place
    elif glob.has_magic(path):
        matches = sorted(glob.glob(place, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute patterns
        if not matches:
            raise UsageError(f"nothing matches {path}", "Check the pattern; ** stands for any number of folders.")
        for match in matches:
            if not Path(match).is_dir():
                yield match
            elif "**" not in path:  # else what is in it is matched by itself
                yield from _in_folder(match, probing, notes, must=False)
    else:
        raise UnreadableInput(f"{path} does not exist", "Check the path; quote it when it holds spaces.")


def _in_folder(folder: str, probing: bool, notes: list[str], must: bool = True) -> Iterator[str]:
    from purekv_cli.video.images import VIDEO_SUFFIXES, list_images

    found = 0
    unread = lambda error: notes.append(f"cannot look into {error.filename}: {error.strerror}")  # noqa: E731
    for place, folders, files in os.walk(folder, onerror=unread):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            file = Path(place, name)
            if _holds_video(file) if probing else file.suffix.lower() in VIDEO_SUFFIXES:
                found += 1
                yield str(file)
    if found or not must:
        return
    if not list_images(Path(folder)):
        raise UsageError(f"there is no video in {folder}", "Check the folder; --probe looks past file names.")
    yield folder  # pictures: one clip, as `ask` takes it


def _holds_video(file: Path) -> bool:
    from purekv_cli.video.container import open_video
    from purekv_cli.video.images import IMAGE_SUFFIXES

    if file.suffix.lower() in IMAGE_SUFFIXES or not file.is_file():
        return False
    try:
        with open_video(file):
            return True
    except (UnreadableInput, OSError):
        return False
