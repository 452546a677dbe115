"""Questions that are generated together: who waits for whom, and who pays for what goes wrong."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from purekv_cli.batch.answerer import VideoAnswerer, VideoSpec
from purekv_cli.batch.job import Item, Job
from purekv_cli.batch.loop import Broken, Check, Loop
from purekv_cli.errors import OutOfResources, UnreadableInput
from purekv_cli.runtime.fast import fast_path
from purekv_cli.settings import ClipSettings, MethodSettings, ModelSettings, Settings
from tests.batch.stub import StubSpec
from tests.clips import Recipe, make

Clip = tuple[str, float | None, float | None]


def nothing(name: str) -> None: ...


@dataclass
class Party:
    """An answerer with a group of `seats` that writes down what it does. A clip's name is all there is to it."""

    seats: int = 4
    reading: Callable[[str], None] = nothing
    joining: Callable[[str], None] = nothing
    generating: Callable[[str], None] = nothing  # of every one's answer
    healthy: bool = True
    events: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    facts = "party"

    def read(self, clip: Clip, check: Check, *, ahead: bool) -> str:
        self.reading(clip[0])
        return clip[0]

    def open(self, read: str, question: str) -> "Talk":
        return Talk(self, read)

    def group(self) -> "Party":
        return self

    @property
    def room(self) -> bool:
        return len(self.waiting) < self.seats

    def generate(self) -> Iterator[tuple[int, dict[str, Any]] | None]:
        together, self.waiting = self.waiting, []
        self.events.append(f"generate {' '.join(together)}")
        for number, name in reversed(list(enumerate(together))):  # the last one is the shortest
            yield None
            self.generating(name)
            yield number, {"status": "answered", "answer": name}

    def forget(self) -> None:
        self.waiting = []
        self.events.append("forget")

    def usable(self) -> bool:
        return self.healthy


@dataclass
class Talk:
    party: Party
    clip: str

    def join(self, question: str, check: Check) -> None:
        self.party.joining(f"{self.clip}{question}")
        check()
        self.party.waiting.append(f"{self.clip}{question}")

    def ask(self, question: str, check: Check) -> dict[str, Any]:
        check()
        self.party.events.append(f"ask {self.clip}{question}")
        return {"status": "answered", "answer": f"{self.clip}{question}"}


def jobs(names: str, questions: str = "?") -> list[Job]:
    return [Job(tuple(Item(name, question) for question in questions)) for name in names.split()]


def run(party: Party, some: list[Job], spec: StubSpec = StubSpec(decoders=0)) -> list[str]:  # noqa: B008
    """What was answered, or the type of what went wrong, in the order of the replies."""
    found = [reply.outcome for reply in Loop(party, spec).run(some, ())]
    return [outcome.get("answer") or outcome["error"]["type"] for outcome in found]


def raises(error: Exception, *names: str) -> Callable[[str], None]:
    """Does so for these, and for nobody else."""

    def call(name: str) -> None:
        if name in names:
            raise error

    return call


def test_questions_of_several_clips_share_their_steps_and_are_told_as_they_end() -> None:
    party = Party()
    assert run(party, jobs("a b", "12")) == ["b2", "b1", "a2", "a1"]
    assert party.events == ["generate a1 a2 b1 b2"]


def test_who_finds_no_seat_is_of_the_next_group() -> None:
    party = Party(seats=2)
    assert run(party, jobs("a b c")) == ["b?", "a?", "c?"]
    assert party.events == ["generate a? b?", "generate c?"]


def test_one_question_is_asked_by_itself() -> None:
    party = Party()
    assert run(party, jobs("a")) == ["a?"]
    assert party.events == ["ask a?"]


def test_a_clip_that_is_still_being_decoded_is_not_waited_for() -> None:
    told = threading.Event()
    party = Party(reading=lambda name: name == "b" and told.wait(10))
    replies = Loop(party, StubSpec(decoders=1)).run(jobs("a b"), ())
    assert next(replies).item.video == "a"
    told.set()
    assert next(replies).item.video == "b"


def test_what_cannot_be_read_or_asked_costs_the_others_nothing() -> None:
    party = Party(reading=raises(UnreadableInput("bad", "Mend it."), "b"), joining=raises(ValueError("odd"), "c1"))
    assert run(party, jobs("a b c", "12")) == ["UnreadableInput", "UnreadableInput", "ValueError", "c2", "a2", "a1"]


@pytest.mark.parametrize("error", [OutOfResources("full", "Take less."), MemoryError("full")], ids=["ours", "any"])
def test_a_prompt_without_room_beside_others_is_asked_when_they_are_done(error: Exception) -> None:
    party = Party(joining=raises(error, "b?"))
    assert run(party, jobs("a b c")) == ["a?", "b?", "c?"]
    assert party.events == ["generate a?", "forget", "ask b?", "generate c?"]


@pytest.mark.parametrize("error", [MemoryError("full"), RuntimeError("odd")])
def test_a_group_that_breaks_is_asked_one_by_one(error: Exception) -> None:
    party = Party(generating=raises(error, "b?"))
    assert run(party, jobs("a b c")) == ["c?", "a?", "b?"]
    assert party.events == ["generate a? b? c?", "forget", "ask a?", "ask b?"]


def test_a_device_that_is_gone_takes_the_process_with_it() -> None:
    party = Party(generating=raises(RuntimeError("device lost"), "b?"), healthy=False)
    replies = Loop(party, StubSpec(decoders=0)).run(jobs("a b c"), ())
    assert next(replies).item.video == "c"
    with pytest.raises(Broken):
        next(replies)


def test_time_is_a_clips_own_reading_and_what_it_shares() -> None:
    party, spec = Party(joining=lambda name: time.sleep(0.2)), StubSpec(timeout=0.5, decoders=0)
    assert run(party, jobs("a b c"), spec) == ["c?", "b?", "a?"]
    party.generating = lambda name: time.sleep(0.4)
    assert run(party, jobs("a b c"), spec) == ["c?", "TimedOut", "TimedOut"]


@pytest.mark.parametrize("observe", [None, "template"])
def test_real_answers_are_those_of_each_alone(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, observe: str | None
) -> None:
    """With the decoder of the CPU, which batch leaves alone: it gains nothing there."""
    clips = [str(make(tmp_path, Recipe(f"{name}.mp4", frames=count)).path) for name, count in (("a", 24), ("b", 12))]
    model = ModelSettings(model=str(bundle), device="cpu", dtype="float32", max_tokens=5)
    settings = Settings(clip=ClipSettings(fps=12), model=model, method=MethodSettings(observe=observe))
    some = [Job(tuple(Item(clip, question) for question in ("who?", "where is it?"))) for clip in clips]

    def answers(together: int) -> tuple[VideoAnswerer, dict[Item, Any]]:
        answerer = VideoSpec(settings, None, 0, together).build()
        replies = Loop(answerer, StubSpec(decoders=0)).run(some, ())
        return answerer, {reply.item: dict(reply.outcome) for reply in replies}

    monkeypatch.setattr(
        "purekv_cli.runtime.together.shared_decoder", lambda adapter, seats: fast_path(adapter.model).decoder
    )
    one, alone = answers(1)
    several, together = answers(3)
    assert one.group() is None
    assert several.group() is not None
    ways = [outcome["stats"]["decode_path"] for outcome in together.values()]
    assert [way.endswith("3 answers together") for way in ways] == [True, True, True, False]
    for item, outcome in alone.items():
        mine, own = together[item], outcome
        assert (mine["answer"], mine["finish"]) == (own["answer"], own["finish"])
        for name in ("prompt_tokens", "kept_tokens", "new_tokens", "sparse"):
            assert mine["stats"][name] == own["stats"][name]
