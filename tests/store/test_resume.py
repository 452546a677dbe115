"""A session that goes on from a file answers as one that never ended: token by token."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from purekv_cli.kernels import allow
from purekv_cli.method.config import MethodConfig, Observe
from purekv_cli.method.policies import POLICIES, make
from purekv_cli.models.base import Inputs
from purekv_cli.runtime.session import Session
from purekv_cli.runtime.snapshot import Snapshot
from tests.runtime.adapter import TinyAdapter
from tests.runtime.tiny import tiny_model
from tests.runtime.uneven import Uneven
from tests.store.kept import FEW, all_equal, engine, last, never, snapshot, through_a_file


@pytest.fixture(scope="module")
def adapter() -> TinyAdapter:
    return TinyAdapter()


def sharing() -> list[tuple[str, Observe, str]]:
    """Every policy in its ways to let questions share a prefill, with the kernels it runs on."""
    found: list[tuple[str, Observe, str]] = [(name, "template", "auto") for name in POLICIES]
    for name in POLICIES:
        ways: tuple[Observe, ...] = ("question", "video")
        alone = [way for way in ways if not make(name, MethodConfig(policy=name, observe=way)).uses_question]
        found += [(name, way, "auto") for way in alone[:1]]
    by_hooks: list[tuple[str, Observe]] = [("purekv", "template"), ("dense", "question"), ("uneven", "question")]
    return [*found, ("uneven", "question", "auto"), *((name, way, "reference") for name, way in by_hooks)]


@pytest.mark.parametrize(("policy", "observe", "kernels"), sharing())
def test_answers_are_the_same_as_in_one_session(
    adapter: TinyAdapter,
    policy: str,
    observe: Observe,
    kernels: Literal["auto", "reference"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(POLICIES, "uneven", Uneven)
    allow(kernels)
    try:
        maker = engine(adapter, policy, observe)
        one = maker.open(adapter.inputs("what happens?"))
        last(one.ask("what happens?", FEW))
        kept = through_a_file(snapshot(one), tmp_path / "kept")
        resumed = Session.resume(maker, kept.snapshot, never)
        for question in ("a second and longer one?", "3?"):
            truth, answer = (last(session.ask(question, FEW)) for session in (one, resumed))
            assert answer.token_ids == truth.token_ids
            assert answer.stats.kept_tokens == truth.stats.kept_tokens
            assert answer.stats.prompt_tokens == truth.stats.prompt_tokens
        truth, answer = (last(session.follow_up("and then?", FEW)) for session in (one, resumed))
        assert answer.token_ids == truth.token_ids
        assert all(torch.equal(a, b) for a, b in zip(resumed.kept, one.kept, strict=True))
    finally:
        allow("auto")


def test_what_was_said_since_is_no_part_of_a_snapshot(adapter: TinyAdapter) -> None:
    session = engine(adapter).open(adapter.inputs("what?"))
    last(session.ask("what?", FEW))
    first = snapshot(session)
    last(session.follow_up("and then?", FEW))
    assert all_equal(snapshot(session), first)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_other_families_too(family: str, tmp_path: Path) -> None:
    adapter = TinyAdapter(tiny_model(family))
    maker = engine(adapter)
    one = maker.open(adapter.inputs("what?"))
    expected = last(one.ask("what?", FEW)).token_ids
    resumed = Session.resume(maker, through_a_file(snapshot(one), tmp_path / "kept").snapshot, never)
    assert last(resumed.ask("what?", FEW)).token_ids == expected


def test_a_resumed_session_can_be_put_away_again(adapter: TinyAdapter, tmp_path: Path) -> None:
    maker = engine(adapter)
    one = maker.open(adapter.inputs("what?"))
    last(one.ask("what?", FEW))
    taken = snapshot(one)
    resumed = Session.resume(maker, through_a_file(taken, tmp_path / "kept").snapshot, never)
    assert all_equal(snapshot(resumed), taken)
    last(resumed.ask("why?", FEW))
    assert all_equal(snapshot(resumed), taken)


def test_layers_that_were_sent_ahead_are_handed_over(adapter: TinyAdapter) -> None:
    """To one cache: a second one is made from the file again."""
    maker = engine(adapter)
    one = maker.open(adapter.inputs("what?"))
    expected = last(one.ask("what?", FEW)).token_ids
    taken = snapshot(one)
    ahead = [tuple(tensor.clone() for tensor in layer) for layer in taken.layers]
    sent = replace(taken, layers=tuple((k * 0, v * 0, p) for k, v, p in taken.layers), ahead=ahead)
    assert last(Session.resume(maker, sent, never).ask("what?", FEW)).token_ids == expected
    assert not sent.ahead
    assert last(Session.resume(maker, sent, never).ask("what?", FEW)).token_ids != expected


def test_time_spent_reading_counts_once(adapter: TinyAdapter) -> None:
    maker = engine(adapter)
    one = maker.open(adapter.inputs("what?"))
    assert last(one.ask("what?", FEW)).stats.recall_seconds == 0
    resumed = Session.resume(maker, snapshot(one), never, recall_seconds=100.0)
    first, second = (last(resumed.ask("what?", FEW)).stats for _ in range(2))
    assert first.recall_seconds > 100
    assert first.first_token_seconds > 100
    assert first.vision_seconds == first.decode_seconds == 0
    assert second.recall_seconds == 0
    assert second.first_token_seconds < 100


@pytest.mark.parametrize("lost", ["by an interruption", "by another way to ask"])
def test_where_the_cache_is_of_no_use_the_clip_is_watched_after_all(adapter: TinyAdapter, lost: str) -> None:
    maker, watched = engine(adapter), []

    def watch() -> Inputs:
        watched.append(True)
        return adapter.inputs("what?")

    one = maker.open(adapter.inputs("what?"))
    last(one.ask("what?", FEW))
    resumed = Session.resume(maker, snapshot(one), watch)
    if lost == "by an interruption":
        resumed.cache = resumed.mark = None
        assert last(resumed.ask("why?", FEW)).token_ids == last(one.ask("why?", FEW)).token_ids
    else:
        answers = [last(each.ask("why?", FEW, probe="what?")).token_ids for each in (resumed, one)]
        assert answers[0] == answers[1]
    assert watched == [True]


def test_a_session_that_shares_nothing_has_no_snapshot(adapter: TinyAdapter) -> None:
    session = engine(adapter, observe="question").open(adapter.inputs("what?"))
    assert Snapshot.of(session) is None
    last(session.ask("what?", FEW))
    assert Snapshot.of(session) is None
