"""The work of an eval: every video whose answers the ledger lacks, in the arms that it lacks."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields

from purekv_cli.errors import UsageError
from purekv_cli.eval.arms import Arm
from purekv_cli.eval.datasets import Problem
from purekv_cli.eval.ledger import Key, Ledger
from purekv_cli.eval.progress import Steps
from purekv_cli.eval.records import Graded, Item
from purekv_cli.eval.source import Source, Video
from purekv_cli.eval.work import Job
from purekv_cli.runtime.weights import Unsupported
from purekv_cli.terminal import Terminal

KEY = ("suite", "video", "id", "policy", "budget", "when", "propagate", "sparse", "probe")
_FIELDS = tuple(field.name for field in fields(Graded))


class Grading:
    """Videos by arms, some of which the ledger may already hold. Plain dense is the first arm."""

    def __init__(self, source: Source, arms: Sequence[Arm], ledger: Ledger) -> None:
        """
        Raises:
            UsageError: the ledger holds answers to other questions of the same name.
        """
        self._source, self._arms, self._ledger = source, arms, ledger
        marks = {self._name(item): _mark(item) for video in source.videos for item in video}
        for row in ledger.done.values():
            name = row["suite"], row["video"], row["id"]
            if marks.get(name, row.get("item")) != row.get("item"):
                raise UsageError(
                    f"question {row['id']} was another one when its answers were written",
                    "Name another file for the results: the data has changed.",
                )

    def run(self, job: Job, terminal: Terminal) -> list[Problem]:
        """Do what is missing; every video's answers are in the ledger before the next one's.

        Returns:
            Videos that could not be read or graded.
        """
        wanted = {video: missing for video in self._source.videos if (missing := self._missing(video))}
        problems: list[Problem] = []
        if not wanted:
            return problems
        total = len(self._source.videos)
        with Steps(terminal, total, total - len(wanted)) as steps:
            try:
                for video, found in job.grade(self._source, wanted, terminal):
                    if isinstance(found, str):
                        problems.append(Problem(self._source.short(video[0].video), found))
                        steps.say(f"{problems[-1].where}: {found}")
                    else:
                        self._add(video, found)
                    steps.step()
            except Unsupported as error:
                raise UsageError(f"this model cannot be replayed: {error}", "Ask for --way engine.") from error
        return problems

    def _add(self, video: Video, rows: Sequence[Graded]) -> None:
        marks = {item.id: _mark(item) for item in video}
        self._ledger.add(asdict(row) | {"video": self._source.short(row.video), "item": marks[row.id]} for row in rows)

    def answers(self) -> Iterator[Graded]:
        """What is known of the questions and arms that were asked for, in their order."""
        for video in self._source.videos:
            for arm in self._arms:
                for item in video:
                    if row := self._ledger.done.get(self._key(item, arm)):
                        yield Graded(**{name: row[name] for name in _FIELDS})

    def _missing(self, video: Video) -> list[Arm]:
        """Arms in which not all of a video's questions are answered: they share a cache, so all are asked again."""
        done = self._ledger.done
        missing = [arm for arm in self._arms if any(self._key(item, arm) not in done for item in video)]
        return list(dict.fromkeys([self._arms[0], *missing])) if missing else []  # others are compared with dense

    def _name(self, item: Item) -> tuple[str, str, str]:
        return item.suite, self._source.short(item.video), item.id

    def _key(self, item: Item, arm: Arm) -> Key:
        return (*self._name(item), arm.policy, arm.budget, arm.when, arm.propagate, arm.sparse, arm.probe)


def _mark(item: Item) -> str:
    """Changes when the question does."""
    return hashlib.sha256("\n".join([item.question, item.truth, *item.options]).encode()).hexdigest()[:12]
