"""A job in a worker's hand: its clip as far as it has come, and its time."""

import time
from typing import TYPE_CHECKING, Any

from purekv_cli.batch.job import Job
from purekv_cli.batch.messages import TimedOut

if TYPE_CHECKING:
    from purekv_cli.batch.loop import Answerer, Conversation


class Deadline:
    """Seconds that may be spent inside of it, in all; called often, it raises TimedOut when they are over."""

    def __init__(self, seconds: float | None, *, started: bool = False) -> None:
        self._limit, self._spent = seconds, 0.0
        self._depth, self._since = int(started), time.monotonic()

    def __enter__(self) -> None:
        if not self._depth:
            self._since = time.monotonic()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._spent += time.monotonic() - self._since

    def late(self) -> TimedOut | None:
        """The error, if the time is up."""
        spent = self._spent + (time.monotonic() - self._since if self._depth else 0.0)
        if self._limit is None or spent <= self._limit:
            return None
        hint = "Give it more --timeout, or fewer frames (--max-frames)."
        return TimedOut(f"took longer than {self._limit:g} s", hint)

    def __call__(self) -> None:
        if late := self.late():
            raise late


class Hand:
    """A job, its decoded clip, and the conversation about it. What others do in the meantime is not its time."""

    def __init__(self, job: Job, answerer: "Answerer", timeout: float | None) -> None:
        self.job, self._answerer = job, answerer
        self.deadline = Deadline(timeout)
        self.read: Any = None
        self._conversation: Conversation | None = None

    def ask(self, question: str) -> dict[str, Any]:
        """The outcome of a question. Errors: what reading and answering raise; the next question begins anew then."""
        try:
            with self.deadline:
                return self._open(question).ask(question, self.deadline)
        except BaseException:
            self.leave()
            raise

    def join(self, question: str) -> None:
        """Let a question wait in the group. Errors: as `ask`."""
        try:
            with self.deadline:
                self._open(question).join(question, self.deadline)
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """End the conversation, and free what it holds; the decoded clip stays."""
        self._conversation = None

    def _open(self, question: str) -> "Conversation":
        self.deadline()
        self._conversation = self._conversation or self._answerer.open(self.read, question)
        return self._conversation
