"""One worker's work: what overlaps, what is held, and how a clip that goes wrong ends."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from purekv_cli.batch.job import Item, Job
from purekv_cli.batch.loop import Broken, Check, Loop
from purekv_cli.errors import OutOfResources, UnreadableInput
from tests.batch.stub import StubSpec

Clip = tuple[str, float | None, float | None]


class Recorder:
    """An answerer that writes down what it is asked to do."""

    facts = "recorder"

    def __init__(self, read: Callable[[str], Any] = str, ask: Callable[[str], Any] = str) -> None:
        self.events: list[str] = []
        self.opened = 0
        self.healthy = True
        self._read, self._ask = read, ask

    def read(self, clip: Clip, check: Check, *, ahead: bool) -> Any:
        self.events.append(f"read {clip[0]}")
        return self._read(clip[0])

    def open(self, read: Any, question: str) -> "Recorder":
        self.opened += 1
        return self

    def ask(self, question: str, check: Check) -> dict[str, Any]:
        self.events.append(f"ask {question}")
        return {"status": "answered", "answer": self._ask(question)}

    def join(self, question: str, check: Check) -> None:
        raise NotImplementedError

    def group(self) -> Any:
        return None

    def usable(self) -> bool:
        return self.healthy


def job(video: str, *questions: str) -> Job:
    return Job(tuple(Item(video, question) for question in questions or ("why?",)))


def statuses(loop: Loop, one: Job, *ahead: Job) -> list[str]:
    return [reply.outcome["status"] for reply in loop.run([one], ahead)]


def test_a_clip_is_read_and_seen_once_for_all_its_questions() -> None:
    recorder = Recorder()
    replies = list(Loop(recorder, StubSpec()).run([job("a", "1", "2", "3")], ()))
    assert [reply.outcome["answer"] for reply in replies] == ["1", "2", "3"]
    assert recorder.events == ["read a", "ask 1", "ask 2", "ask 3"]
    assert recorder.opened == 1


def test_the_next_clips_are_read_while_this_one_is_answered() -> None:
    read = threading.Event()

    def reading(video: str) -> str:
        if video == "b":
            read.set()
        return video

    recorder = Recorder(reading, ask=lambda question: read.wait(10))
    loop = Loop(recorder, StubSpec(decoders=2))
    (reply,) = loop.run([job("a")], (job("b"),))
    assert reply.outcome["answer"] is True  # b was read before a was answered
    assert statuses(loop, job("b")) == ["answered"]
    assert recorder.events.count("read b") == 1


def test_reading_ahead_hides_the_shorter_of_the_two() -> None:
    def took(ahead: int) -> float:
        loop = Loop(Recorder(lambda video: time.sleep(0.05), lambda question: time.sleep(0.05)), StubSpec())
        jobs, began = [job(str(index)) for index in range(8)], time.perf_counter()
        for index, one in enumerate(jobs):
            list(loop.run([one], jobs[index + 1 : index + 1 + ahead]))
        return time.perf_counter() - began

    assert took(ahead=1) < 0.75 * took(ahead=0)


def test_a_clip_that_cannot_be_read_fails_with_all_its_questions() -> None:
    def reading(video: str) -> str:
        raise UnreadableInput("no video", "Convert it.")

    loop = Loop(Recorder(reading), StubSpec())
    for ahead in ((), (job("bad", "1", "2"),)):
        list(loop.run([job("other")], ahead))
        replies = list(loop.run([job("bad", "1", "2")], ()))
        error = {"type": "UnreadableInput", "message": "no video", "hint": "Convert it."}
        assert [reply.outcome for reply in replies] == [{"status": "failed", "error": error}] * 2


def test_a_clip_that_had_no_room_beside_others_is_read_again_alone() -> None:
    tries: list[str] = []

    def reading(video: str) -> str:
        tries.append(video)
        if tries.count(video) == 1 and video == "big":
            raise OutOfResources("no room", "Make some.")
        return video

    loop = Loop(Recorder(reading), StubSpec())
    list(loop.run([job("a")], (job("big"),)))
    assert statuses(loop, job("big")) == ["answered"]
    assert tries.count("big") == 2


def test_a_question_that_fails_costs_the_others_nothing() -> None:
    def asking(question: str) -> str:
        if question == "2":
            raise ValueError("odd")
        return question

    recorder = Recorder(ask=asking)
    assert statuses(Loop(recorder, StubSpec()), job("a", "1", "2", "3")) == ["answered", "failed", "answered"]
    assert recorder.opened == 2  # the third begins anew
    recorder.healthy = False
    loop = Loop(recorder, StubSpec())
    replies = loop.run([job("a", "1", "2", "3")], ())
    assert [next(replies).outcome["status"] for _ in range(2)] == ["answered", "failed"]
    with pytest.raises(Broken):
        next(replies)


def test_a_clip_that_another_worker_took_is_let_go() -> None:
    recorder = Recorder()
    loop = Loop(recorder, StubSpec())
    list(loop.run([job("a")], (job("b"), job("c"))))
    list(loop.run([job("b")], ()))
    assert not loop._coming


def test_the_time_limit_of_a_clip_counts_all_its_questions() -> None:
    spec = StubSpec(timeout=0.05)

    class Slow(Recorder):
        def ask(self, question: str, check: Check) -> dict[str, Any]:
            threading.Event().wait(0.1)
            check()
            return {}

    replies = list(Loop(Slow(), spec).run([job("a", "1", "2")], ()))
    assert [reply.outcome["error"]["type"] for reply in replies] == ["TimedOut", "TimedOut"]
    assert "0.05 s" in replies[0].outcome["error"]["message"]
