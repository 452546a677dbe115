"""One turn of a chat: asked, stopped by Ctrl-C where somebody wants that, and taken back when nothing came of it."""

import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import cast

from purekv_cli.pipeline import Listener
from purekv_cli.runtime.cache import CompactCache
from purekv_cli.runtime.events import Answer, Event
from purekv_cli.runtime.sampling import Generation
from purekv_cli.runtime.session import Session

Events = Generator[Event, None, None]


def take_turn(
    session: Session, question: str, generation: Generation, tell: Listener, stopped: Callable[[], bool], *, first: bool
) -> Answer:
    """Ask, as the first question about the clip or after the answers before; tell what comes.

    A later turn that fails, or is stopped before it says anything, leaves the session as it was before.

    Args:
        stopped: asked after every event whether the answer should end here, "interrupted".
    """
    before = None if first else _Memory.of(session)
    turn = session.ask(question, generation) if first else session.follow_up(question, generation)
    try:
        with closing(cast(Events, turn)) as events:
            answer = _told(events, tell, stopped)
    except BaseException:
        if before:
            before.restore(session)
        raise
    if before and not said(answer):
        before.restore(session)
    return answer


def said(answer: Answer) -> bool:
    """Whether the answer began: else its question was taken back."""
    return answer.finish != "interrupted" or bool(answer.token_ids)


@contextmanager
def first_ctrl_c() -> Iterator[Callable[[], bool]]:
    """Inside, one Ctrl-C is only noted, so that it never meets the engine amid a step; a second one is as usual.

    Yields:
        Whether there was one.
    """
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _told(events: Events, tell: Listener, stopped: Callable[[], bool]) -> Answer:
    for event in events:
        if not isinstance(event, Answer) and stopped():
            event = events.throw(KeyboardInterrupt())  # the engine ends cleanly, with an Answer
        tell(event)
        if isinstance(event, Answer):
            return event
    raise RuntimeError("the engine ended without an answer")


@dataclass(frozen=True, slots=True)
class _Memory:
    """What a session knows between two turns."""

    cache: CompactCache
    length: int  # tokens in it
    mark: int | None
    next_position: int
    unfed: list[int]

    @classmethod
    def of(cls, session: Session) -> "_Memory":
        assert session.cache is not None
        length = session.cache.get_seq_length()
        return cls(session.cache, length, session.mark, session.next_position, session.unfed)

    def restore(self, session: Session) -> None:
        self.cache.rewind(self.length)
        session.cache, session.mark = self.cache, self.mark
        session.next_position, session.unfed = self.next_position, self.unfed
