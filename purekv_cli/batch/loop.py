"""One worker's work, in whatever process it runs: answer the jobs in hand while the next clips are decoded.

Decoding needs CPU threads that let go of Python's lock, answering needs the model; so the two overlap. At most the
clips of `ahead` are held in memory beside those in hand. Where the answerer has a group, prompts that are ready join it
and their answers are generated together; whatever goes wrong there is done again one by one.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Protocol

from purekv_cli.batch.hand import Deadline, Hand
from purekv_cli.batch.job import Item, Job
from purekv_cli.batch.messages import Reply
from purekv_cli.batch.outcome import failed
from purekv_cli.errors import PureKVError

Check = Callable[[], None]  # raises TimedOut when the time is up; called often


class Conversation(Protocol):
    """A clip that the model has seen."""

    def ask(self, question: str, check: Check) -> dict[str, Any]:
        """The outcome of a question."""
        ...

    def join(self, question: str, check: Check) -> None:
        """Let a question wait in the answerer's group. Errors: those of `ask`; it does not wait then."""
        ...


class Group(Protocol):
    """Questions that have joined, and whose answers are generated together."""

    @property
    def room(self) -> bool:
        """Whether another one may join now."""
        ...

    def generate(self) -> Iterator[tuple[int, dict[str, Any]] | None]:
        """None again and again; the outcome of a question, by its number in the order of joining, when it is there."""
        ...

    def forget(self) -> None:
        """Free what those that have joined hold."""
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

    def group(self) -> Group | None:
        """What questions may join, if it pays here to generate answers together."""
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
    """Jobs in, replies out."""

    def __init__(self, answerer: Answerer, spec: Spec) -> None:
        self._answerer, self._timeout, self._ahead = answerer, spec.timeout, spec.decoders > 0
        self._threads = ThreadPoolExecutor(max(spec.decoders, 1), "purekv-ahead")
        self._coming: dict[Job, Future[Any]] = {}

    def run(self, jobs: Sequence[Job], ahead: Sequence[Job]) -> Iterator[Reply]:
        """Replies to all items of the jobs, as they come.

        Raises:
            Broken: after the reply that tells why, or before any to those that were answered together.
        """
        for other in self._coming.keys() - {*jobs, *ahead}:  # another worker has taken it
            self._coming.pop(other).cancel()
        for other in (*jobs[1:], *ahead) if self._ahead else ():
            if other not in self._coming:
                self._coming[other] = self._threads.submit(self._read_ahead, other)
        group = self._answerer.group() if sum(len(job.items) for job in jobs) > 1 else None
        hands = [Hand(job, self._answerer, self._timeout) for job in jobs]
        if group is not None:
            yield from self._together(hands, group)
            return
        for hand in hands:
            if (yield from self._read(hand)):
                for item in hand.job.items:
                    yield from self._reply(item, hand)

    def _together(self, hands: Sequence[Hand], group: Group) -> Iterator[Reply]:
        waiting: list[tuple[Hand, Item]] = []
        for hand in hands:
            if waiting and not self._ready(hand.job):
                yield from self._generate(group, waiting)
            if not (yield from self._read(hand)):
                continue
            for item in hand.job.items:
                if waiting and not group.room:
                    yield from self._generate(group, waiting)
                try:
                    hand.join(item.question)
                except Exception as error:
                    if not _short_of_memory(error):
                        yield from self._failed(item, error)
                        continue
                    yield from self._generate(group, waiting)
                    group.forget()
                    yield from self._reply(item, hand)
                else:
                    waiting.append((hand, item))
            hand.leave()
        yield from self._generate(group, waiting)

    def _generate(self, group: Group, waiting: list[tuple[Hand, Item]]) -> Iterator[Reply]:
        """Replies to those that wait; afterwards nobody does."""
        left = dict(enumerate(waiting))
        waiting.clear()
        try:
            with ExitStack() as stack:
                for hand, _ in left.values():
                    stack.enter_context(hand.deadline)
                for ended in group.generate() if left else ():
                    if ended is not None and ended[0] in left:
                        yield Reply(left.pop(ended[0])[1], ended[1])
                    for number, (hand, item) in list(left.items()):
                        if late := hand.deadline.late():
                            del left[number]
                            yield Reply(item, failed(late))
                    if not left:
                        return
        except Exception as error:
            group.forget()
            if not _short_of_memory(error) and not self._answerer.usable():
                raise Broken from error
        for hand, item in left.values():
            yield from self._reply(item, hand)

    def _reply(self, item: Item, hand: Hand) -> Iterator[Reply]:
        """The item asked by itself."""
        try:
            outcome = hand.ask(item.question)
        except Exception as error:
            yield from self._failed(item, error)
        else:
            yield Reply(item, outcome)

    def _failed(self, item: Item, error: Exception) -> Iterator[Reply]:
        yield Reply(item, failed(error))
        if not isinstance(error, PureKVError) and not self._answerer.usable():
            raise Broken

    def _read(self, hand: Hand) -> Generator[Reply, None, bool]:
        """Whether the clip could be read; replies that tell why not."""
        try:
            hand.read = self._in_hand(hand.job, self._coming.pop(hand.job, None), hand.deadline)
        except Exception as error:
            yield from (Reply(item, failed(error)) for item in hand.job.items)
            return False
        return True

    def _ready(self, job: Job) -> bool:
        """Whether nothing is to be waited for before its clip can be read or seen."""
        return job not in self._coming or self._coming[job].done()

    def _read_ahead(self, job: Job) -> Any:
        return self._answerer.read(job.clip, Deadline(self._timeout, started=True), ahead=True)

    def _in_hand(self, job: Job, coming: "Future[Any] | None", deadline: Deadline) -> Any:
        """The decoded clip; one that failed for want of room is tried again now that others are gone."""
        with deadline:
            if coming is not None:
                try:
                    return coming.result()
                except (MemoryError, PureKVError) as error:
                    if isinstance(error, PureKVError) and error.exit_code != 5:
                        raise
            return self._answerer.read(job.clip, deadline, ahead=False)


def _short_of_memory(error: Exception) -> bool:
    """Whether it may well go with fewer prompts at once."""
    known = isinstance(error, PureKVError) and error.exit_code == 5
    return known or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
