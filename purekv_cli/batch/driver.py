"""Deals jobs to workers and writes down what comes back: the only one that knows the whole batch.

A worker that dies costs the job in its hand: what was not answered of it is recorded as failed. The jobs it had begun
to decode go back to the front of the queue, each to be done alone, so that the one that is to blame names itself; so do
all that were in its hand if they were several, to be answered together.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from purekv_cli.batch.job import Item, Job, Key
from purekv_cli.batch.ledger import FAILED
from purekv_cli.batch.messages import Died, Done, Message, Pool, Ready, Refused, Reply, TimedOut
from purekv_cli.batch.outcome import failed
from purekv_cli.errors import ModelUnavailable, OutOfResources, PureKVError, UsageError

LOADING_DEATHS = 3  # in a row, before a worker counts as hopeless
GRACE = 5.0  # s after --timeout in which a worker may notice by itself
WAIT = 0.25  # s

Write = Callable[[Mapping[str, Any]], None]


class WorkerDied(PureKVError):
    """The process that worked on a video is gone: killed, out of memory, or a crash in a decoder."""


@dataclass(slots=True)
class _Hand:
    """What one worker is doing."""

    ready: bool = False
    jobs: list[Job] = field(default_factory=list)
    open: dict[Key, Item] = field(default_factory=dict)  # items of the jobs that are not finished
    ahead: list[Job] = field(default_factory=list)
    since: float = 0.0
    killed: bool = False
    deaths: int = 0  # while loading, in a row


@dataclass(frozen=True, slots=True)
class Limits:
    decoders: int = 1  # jobs a worker decodes ahead
    timeout: float | None = None  # s a job
    fail_fast: bool = False
    together: int = 1  # questions that a worker is given at once, as long as there are enough for all workers


class Driver:
    """One run over the jobs.

    Args:
        write: takes each record as it is finished.
        said: is told of every message, for progress.
    """

    def __init__(
        self, jobs: Iterable[Job], pool: Pool, limits: Limits, write: Write, said: Callable[[Message], None]
    ) -> None:
        self._waiting = deque(jobs)
        self._pool, self._limits, self._write, self._said = pool, limits, write, said
        self._hands = [_Hand() for _ in range(pool.size)]
        self._enough = False  # a failure where one is enough
        self.stopping = 0  # 1: finish what is in hand, then stop; 2: stop at once

    def run(self) -> None:
        """Until nothing is left, or `stopping` says so, or the first failure if that is enough.

        Errors: what a worker's model refuses, OutOfResources when workers die while loading or the ledger is full,
        KeyboardInterrupt when stopped at once.
        """
        while True:
            if self.stopping > 1:
                raise KeyboardInterrupt
            if not self.stopping:
                self._deal()
            busy = any(hand.jobs for hand in self._hands)
            if self._enough or (not busy and (self.stopping or not self._left())):
                return
            for worker, message in self._pool.wait(WAIT):
                self._take(worker, self._hands[worker], message)
            self._kill_late()

    def _left(self) -> int:
        """Jobs nobody has begun to answer."""
        return len(self._waiting) + sum(len(hand.ahead) for hand in self._hands)

    def _deal(self) -> None:
        for worker, hand in enumerate(self._hands):
            if hand.jobs or not hand.ready or (job := self._next(hand)) is None:
                continue
            jobs = [job]
            fair = -(-(self._left() + 1) // len(self._hands))  # of the jobs that are left
            while not job.alone and len(jobs) < fair and sum(len(j.items) for j in jobs) < self._limits.together:
                if (another := self._calm(hand)) is None:
                    break
                jobs.append(another)
            while not job.alone and len(hand.ahead) < self._limits.decoders and self._waiting:
                if self._waiting[0].alone:
                    break
                hand.ahead.append(self._waiting.popleft())
            hand.jobs, hand.since = jobs, time.monotonic()
            hand.open = {item.key: item for job in jobs for item in job.items}
            self._pool.submit(worker, jobs, hand.ahead)

    def _next(self, hand: _Hand) -> Job | None:
        """Its own, else the queue's, else what another worker has only begun to decode."""
        if hand.ahead:
            return hand.ahead.pop(0)
        if self._waiting:
            return self._waiting.popleft()
        richest = max(self._hands, key=lambda other: len(other.ahead))
        return richest.ahead.pop() if richest.ahead else None

    def _calm(self, hand: _Hand) -> Job | None:
        """Its own next one, else the queue's, unless that is to be done alone."""
        if hand.ahead:
            return hand.ahead.pop(0)
        return self._waiting.popleft() if self._waiting and not self._waiting[0].alone else None

    def _take(self, worker: int, hand: _Hand, message: Message) -> None:
        match message:
            case Ready():
                hand.ready, hand.deaths = True, 0
            case Reply(item, outcome):
                self._record(hand, item, outcome)
            case Done():
                message, hand.jobs = Done(len(hand.jobs)), []
            case Died(why):
                self._lost(hand, why)
            case Refused(code, what, hint):
                raise _ERRORS.get(code, PureKVError)(what, hint)
        self._said(message)

    def _record(self, hand: _Hand, item: Item, outcome: Mapping[str, Any]) -> None:
        if hand.open.pop(item.key, None) is None:
            return
        named = {"id": item.id, "video": item.video, "start": item.start, "end": item.end, "question": item.question}
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._write({name: value for name, value in named.items() if value is not None} | {**outcome, "at": at})
        self._enough |= outcome["status"] == FAILED and self._limits.fail_fast

    def _lost(self, hand: _Hand, why: str) -> None:
        if not hand.ready:
            hand.deaths += 1
            if hand.deaths >= LOADING_DEATHS:
                raise OutOfResources(
                    f"workers die while the model is being loaded ({why})",
                    "Most likely memory is short: try fewer --workers or a smaller model.",
                )
        again = [replace(job, alone=True) for job in hand.ahead]
        if len(hand.jobs) > 1:
            shared = [replace(job, items=tuple(i for i in job.items if i.key in hand.open)) for job in hand.jobs]
            again = [replace(job, alone=True) for job in shared if job.items] + again
            hand.open = {}
        if hand.killed and self._limits.timeout is not None:
            error: PureKVError = TimedOut(
                f"took longer than {self._limits.timeout:g} s and did not stop by itself",
                "Give it more --timeout, or fewer frames (--max-frames).",
            )
        else:
            error = WorkerDied(
                f"the worker died while it worked on this video ({why})",
                "Look whether memory runs out; --retry-failed asks again.",
            )
        for item in list(hand.open.values()):
            self._said(reply := Reply(item, failed(error)))
            self._record(hand, item, reply.outcome)
        hand.ready, hand.killed, hand.jobs, hand.ahead = False, False, [], []
        self._waiting.extendleft(reversed(again))

    def _kill_late(self) -> None:
        limit = self._limits.timeout
        if limit is None:
            return
        for worker, hand in enumerate(self._hands):
            if hand.jobs and not hand.killed and time.monotonic() - hand.since > len(hand.jobs) * limit + GRACE:
                hand.killed = True
                self._pool.kill(worker)


_ERRORS: dict[int, type[PureKVError]] = {2: UsageError, 4: ModelUnavailable, 5: OutOfResources}
