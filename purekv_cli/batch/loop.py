"""One worker's work, in whatever process it runs: answer one job while the clips of the next ones are decoded.

Decoding needs CPU threads that let go of Python's lock, answering needs the model; so the two overlap. At most the
clips of `ahead` are held in memory beside the one in hand.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from purekv_cli.batch.job import Job
from purekv_cli.batch.messages import Reply, TimedOut
from purekv_cli.batch.outcome import failed
from purekv_cli.errors import PureKVError

Check = Callable[[], None]  # raises TimedOut when the time is up; called often


class Conversation(Protocol):
    """A clip that the model has seen."""

    def ask(self, question: str, check: Check) -> dict[str, Any]:
        """The outcome of a question."""
        ...


class Answerer(Protocol):
    """What a worker holds: a loaded model."""

    facts: str  # for people: "demo, float32 on cpu"

    def read(self, clip: tuple[str, float | None, float | None], check: Check, *, ahead: bool) -> Any:
        """Decode a clip: in a background thread beside others (`ahead`), or while everything waits for it."""
        ...

    def open(self, read: Any, question: str) -> Conversation:
        """Show a decoded clip to the model."""
        ...

    def usable(self) -> bool:
        """Whether it can go on after an error that was not expected."""
        ...


class Spec(Protocol):
    """How to make an answerer; travels to the worker as a pickle."""

    @property
    def timeout(self) -> float | None:
        """Seconds a clip may take; None: no limit."""
        ...

    @property
    def decoders(self) -> int:
        """Threads that decode ahead, and clips decoded ahead."""
        ...

    def build(self) -> Answerer: ...


class Broken(Exception):
    """The device is in no state to go on: the process must end."""


class Loop:
    """Jobs in, replies out, one job at a time."""

    def __init__(self, answerer: Answerer, spec: Spec) -> None:
        self._answerer, self._timeout = answerer, spec.timeout
        self._threads = ThreadPoolExecutor(max(spec.decoders, 1), "purekv-ahead")
        self._coming: dict[Job, Future[Any]] = {}

    def run(self, job: Job, ahead: Sequence[Job]) -> Iterator[Reply]:
        """Replies to all items of the job, as they come.

        Raises:
            Broken: after the reply that tells why.
        """
        check = _deadline(self._timeout)
        coming = self._coming.pop(job, None)
        for other in self._coming.keys() - set(ahead):  # another worker has taken it
            self._coming.pop(other).cancel()
        for other in ahead:
            if other not in self._coming:
                self._coming[other] = self._threads.submit(self._read_ahead, other)
        try:
            read = self._in_hand(job, coming, check)
        except Exception as error:
            yield from (Reply(item, failed(error)) for item in job.items)
            return
        conversation: Conversation | None = None
        for item in job.items:
            unexpected = False
            try:
                check()
                conversation = conversation or self._answerer.open(read, item.question)
                outcome = conversation.ask(item.question, check)
            except Exception as error:
                conversation = None  # whatever it was left with, the next question begins anew
                outcome, unexpected = failed(error), not isinstance(error, PureKVError)
            yield Reply(item, outcome)
            if unexpected and not self._answerer.usable():
                raise Broken

    def _read_ahead(self, job: Job) -> Any:
        return self._answerer.read(job.clip, _deadline(self._timeout), ahead=True)

    def _in_hand(self, job: Job, coming: "Future[Any] | None", check: Check) -> Any:
        """The decoded clip; one that failed for want of room is tried again now that others are gone."""
        if coming is not None:
            try:
                return coming.result()
            except (MemoryError, PureKVError) as error:
                if isinstance(error, PureKVError) and error.exit_code != 5:
                    raise
        return self._answerer.read(job.clip, check, ahead=False)


def _deadline(seconds: float | None) -> Check:
    end = float("inf") if seconds is None else time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > end:
            raise TimedOut(f"took longer than {seconds:g} s", "Give it more --timeout, or fewer frames (--max-frames).")

    return check
