"""Prompts in the same steps: every answer and its record are those of `Session.ask`, but for the seconds."""

from dataclasses import fields
from typing import Any

import pytest
import torch

from purekv_cli.errors import OutOfResources
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig
from purekv_cli.runtime.engine import Engine
from purekv_cli.runtime.events import Answer, RunStats
from purekv_cli.runtime.fast import fast_path
from purekv_cli.runtime.sampling import Generation
from purekv_cli.runtime.session import Session
from purekv_cli.runtime.together import Together, shared_decoder
from tests.runtime.adapter import TinyAdapter

GENERATION = Generation(max_tokens=30, temperature=0.03, seed=1)  # the likeliest tokens: they depend on the clip
CLIPS = {"a": {"seed": 1, "frames": 6}, "b": {"seed": 2, "frames": 10}, "c": {"seed": 3, "frames": 4}}
TIMED = {"first_token_seconds", "tokens_per_second", "vision_seconds", "prefill_seconds", "scoring_seconds"}
ROOM = frozenset({"kv_bytes_kept"})  # of a cache that is asked again: with the room that the answer before it left


@pytest.fixture(scope="module")
def adapter() -> TinyAdapter:
    adapter = TinyAdapter()
    adapter.stop_ids = frozenset(range(0, 320, 17))  # most of the answers end of their own accord
    return adapter


def opened(adapter: TinyAdapter, clip: str, **dials: Any) -> Session:
    config = MethodConfig(policy="purekv", budget=Budget("fraction", 0.7), **dials)
    return Engine(adapter, config).open(adapter.inputs("", **CLIPS[clip]))


def together(adapter: TinyAdapter, seats: int = 4) -> Together:
    decoder = fast_path(adapter.model).decoder
    assert decoder is not None
    return Together(adapter, decoder, GENERATION, seats)


def take(group: Together, session: Session, question: str) -> None:
    for _ in group.take(session, question):
        pass


def ask(session: Session, question: str) -> Answer:
    *_, answer = session.ask(question, GENERATION)
    assert isinstance(answer, Answer)
    return answer


def ended(group: Together) -> dict[int, Answer]:
    return dict(found for found in group.generate() if found is not None)


def same(mine: Answer, alone: Answer, but: frozenset[str] = frozenset()) -> None:
    assert (mine.question, mine.text, mine.finish, mine.token_ids) == (
        alone.question,
        alone.text,
        alone.finish,
        alone.token_ids,
    )
    for field in fields(RunStats):
        if field.name not in TIMED | {"decode_path"} | but:
            assert getattr(mine.stats, field.name) == getattr(alone.stats, field.name), field.name


@pytest.mark.parametrize("observe", ["question", "template"])
def test_answers_and_records_are_those_of_each_alone(adapter: TinyAdapter, observe: str) -> None:
    asked = [("a", "who?"), ("a", "where is it?"), ("b", "who?"), ("c", "why not?")]
    alone = [ask(session, question) for session, question in sessions(adapter, asked, observe)]
    assert "stop" in {answer.finish for answer in alone}
    group = together(adapter)
    for session, question in sessions(adapter, asked, observe):
        take(group, session, question)
    found = ended(group)
    for index, answer in enumerate(alone):
        same(found[index], answer, ROOM if observe == "template" else frozenset())
        assert found[index].stats.decode_path.endswith("4 answers together")


def sessions(adapter: TinyAdapter, asked: list[tuple[str, str]], observe: str) -> list[tuple[Session, str]]:
    clips = {clip: opened(adapter, clip, observe=observe) for clip, _ in asked}
    return [(clips[clip], question) for clip, question in asked]


def test_an_answer_comes_with_the_step_that_ends_it(adapter: TinyAdapter) -> None:
    group = together(adapter)
    for clip in CLIPS:
        take(group, opened(adapter, clip), "who?")
    steps = 1
    for found in group.generate():
        if found is None:
            steps += 1
        else:
            answer = found[1]
            assert len(answer.token_ids) + (answer.finish == "stop") == steps


def test_there_are_so_many_seats(adapter: TinyAdapter) -> None:
    group = together(adapter, seats=2)
    assert group.room
    take(group, opened(adapter, "a"), "who?")
    assert group.room
    take(group, opened(adapter, "b"), "who?")
    assert not group.room
    assert len(ended(group)) == 2
    assert group.room
    assert ended(group) == {}


def test_a_prompt_that_does_not_fit_leaves_the_others_seated(
    adapter: TinyAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = ask(opened(adapter, "a"), "who?")
    group = together(adapter)
    take(group, opened(adapter, "a"), "who?")
    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            raise torch.OutOfMemoryError("no memory")

        patch.setattr("purekv_cli.runtime.answering.embed_clip", full)
        with pytest.raises(OutOfResources):
            take(group, opened(adapter, "b"), "who?")
    assert len(group) == 1
    same(ended(group)[0], alone)
    take(group, opened(adapter, "b"), "who?")
    group.forget()
    assert ended(group) == {}
    same(ask(opened(adapter, "a"), "who?"), alone)  # the decoder is as it was


def test_a_session_goes_on_after_its_question_has_a_seat(adapter: TinyAdapter) -> None:
    session, group = opened(adapter, "a"), together(adapter)
    take(group, session, "who?")
    first = ended(group)[0]
    same(ask(session, "who?"), first)


@pytest.mark.skipif(torch.cuda.is_available(), reason="what holds without a GPU")
def test_a_cpu_shares_nothing(adapter: TinyAdapter) -> None:
    assert shared_decoder(adapter, 4) is None
