"""What is asked: an item is one question about one clip, a job is a clip with all its questions."""

from collections.abc import Iterable
from dataclasses import dataclass

Key = tuple[str | int | None, str, float | None, float | None, str]


@dataclass(frozen=True, slots=True)
class Item:
    """One question about one clip: one record in the ledger."""

    video: str  # absolute path
    question: str
    id: str | int | None = None  # the caller's own name for it
    start: float | None = None  # s; None: as the settings say
    end: float | None = None  # s

    @property
    def key(self) -> Key:
        """What makes two items the same."""
        return (self.id, self.video, self.start, self.end, self.question)


@dataclass(frozen=True, slots=True)
class Job:
    """One clip with its questions: decoded once, seen once, answered by one worker."""

    items: tuple[Item, ...]  # at least one; all of the same clip
    alone: bool = False  # nothing else is decoded meanwhile: if the worker dies again, this job was why

    @property
    def clip(self) -> tuple[str, float | None, float | None]:
        """(video, start, end)"""
        first = self.items[0]
        return first.video, first.start, first.end


def jobs_of(items: Iterable[Item]) -> list[Job]:
    """The items by clip, in the order in which clips first appear."""
    clips: dict[tuple[str, float | None, float | None], list[Item]] = {}
    for item in items:
        clips.setdefault((item.video, item.start, item.end), []).append(item)
    return [Job(tuple(asked)) for asked in clips.values()]
