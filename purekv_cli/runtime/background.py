"""Events out of a long call: prefill is one call into the model, yet its progress should be seen while it runs.

The call works in a thread and hands its events through a queue to the generator that the caller iterates. Leaving the
generator early, by Ctrl-C or by closing it, makes the call stop at its next event.
"""

from collections.abc import Callable, Generator
from queue import SimpleQueue
from threading import Event as Flag
from threading import Thread
from typing import TypeVar

from purekv_cli.runtime.events import Event

T = TypeVar("T")


class _Stopped(Exception):
    """Raised inside the call when nobody listens any more."""


class _Done:
    pass


def streamed(work: Callable[[Callable[[Event], None]], T]) -> Generator[Event, None, T]:
    """Yield what `work` emits while it runs; the generator's return value is the result of `work`.

    Raises:
        Whatever `work` raises.
    """
    queue: SimpleQueue[Event | _Done] = SimpleQueue()
    stop = Flag()
    result: list[T] = []
    failure: list[BaseException] = []

    def emit(event: Event) -> None:
        if stop.is_set():
            raise _Stopped
        queue.put(event)

    def run() -> None:
        try:
            result.append(work(emit))
        except BaseException as error:  # handed to the caller's thread below
            failure.append(error)
        finally:
            queue.put(_Done())

    thread = Thread(target=run, name="purekv-prefill", daemon=True)
    thread.start()
    try:
        while not isinstance(event := queue.get(), _Done):
            yield event
    finally:
        stop.set()
        thread.join()
    if failure:
        raise failure[0]
    return result[0]
