"""Replay comes to what the engine comes to, arm by arm: right or wrong, bytes, KL."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from purekv_cli.demo.clips import make_clip
from purekv_cli.eval.arms import WHENS, Arm, When
from purekv_cli.eval.clipworld import clip_frames, items_of
from purekv_cli.eval.engine_way import EngineWay
from purekv_cli.eval.records import Graded, Item
from purekv_cli.eval.replay import ReplayWay, asked_of
from purekv_cli.eval.replay_judge import Kept, kept
from purekv_cli.eval.replay_prefill import captured
from purekv_cli.eval.replay_rows import Row, next_tokens
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.policies import POLICIES
from purekv_cli.models.base import Adapter
from purekv_cli.models.registry import load, resolve
from purekv_cli.video.frames import Frames
from tests.runtime.uneven import Uneven

DENSE = Arm("dense", "1", "unknown")
Key = tuple[object, ...]


@pytest.fixture(scope="module")
def demo() -> Adapter:
    return load(resolve("demo"), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def clip(demo: Adapter) -> tuple[list[Item], Frames]:
    """Its first eight frames: enough to differ, and to be wrong at times."""
    made = make_clip(11, "short")
    frames = clip_frames(made, demo.geometry)
    cut = {name: getattr(frames, name)[:8] for name in ("pixels", "times", "targets")}
    return items_of(made, 2), replace(frames, **cut)


def by_arm(rows: Sequence[Graded]) -> dict[Key, Graded]:
    return {(g.id, g.policy, g.budget, g.when, g.propagate, g.sparse, g.probe): g for g in rows}


def both(demo: Adapter, clip: tuple[list[Item], Frames], arms: Sequence[Arm]) -> list[tuple[Graded, Graded]]:
    """(replay's, engine's) of every item and arm, dense among them."""
    items, frames = clip
    replayed, run = (by_arm(list(way(demo).grade(items, [DENSE, *arms], frames))) for way in (ReplayWay, EngineWay))
    assert len(replayed) == len(items) * (1 + len(arms))
    assert replayed.keys() == run.keys()
    return [(replayed[key], run[key]) for key in replayed]


def assert_same(pairs: Sequence[tuple[Graded, Graded]]) -> None:
    for ours, engines in pairs:
        assert (ours.right, ours.error) == (engines.right, engines.error), (ours, engines)
        if ours.error:
            continue
        assert (ours.kv_bytes_full, ours.kv_bytes_kept) == (engines.kv_bytes_full, engines.kv_bytes_kept), ours
        assert ours.kl == pytest.approx(engines.kl, rel=1e-2, abs=1e-4)
        assert ours.agreement == pytest.approx(engines.agreement)
        if not ours.answer.endswith("[wrong here]"):
            assert ours.answer == engines.answer


@pytest.mark.parametrize("when", WHENS)
def test_every_moment_is_the_engines(demo: Adapter, clip: tuple[list[Item], Frames], when: When) -> None:
    """Layers that wait (vl-cache), budgets by layer (pyramidkv) and by head (adakv), one set for heads (purekv)."""
    arms = [Arm(policy, "0.25", when) for policy in ("purekv", "vl-cache", "pyramidkv", "adakv")]
    assert_same(both(demo, clip, [*arms, Arm("purekv", "0.18", when), Arm("purekv", "0.6", when)]))  # 0.6: text stays


@pytest.mark.parametrize(
    "arm",
    [
        Arm("purekv", "0.2", "unknown", probe=""),
        Arm("purekv", "0.2", "unknown", probe="What happens?"),
        Arm("purekv", "0.2", "known", propagate="4:0.35"),
        Arm("purekv", "0.2", "prompt", propagate="4:0.35"),
        Arm("purekv", "0.2", "unknown", sparse=True),
        Arm("purekv", "0.2", "prompt", sparse=True),
        Arm("purekv", "0.01", "known"),
    ],
    ids=str,
)
def test_probes_and_prefills_of_their_own_are_the_engines(
    demo: Adapter, clip: tuple[list[Item], Frames], arm: Arm
) -> None:
    assert_same(both(demo, clip, [arm]))


@pytest.mark.parametrize("when", WHENS)
def test_a_dialogue_is_read_by_both(demo: Adapter, clip: tuple[list[Item], Frames], when: When) -> None:
    """Turns before a question are turns of the conversation: longer prompts, and other answers' likelihoods."""
    items, frames = clip
    talk = (("What is first?", "A red ball."), ("And then?", "It stops."))
    talking = [replace(items[0], talk=talk), replace(items[1], talk=talk[:1])]
    arms = [Arm("purekv", "0.4", when), Arm("purekv", "0.4", "unknown", probe="")]
    pairs = both(demo, (talking, frames), arms)
    assert_same(pairs)
    told = {graded.id: graded for graded, _ in pairs if graded.policy == "dense"}
    plain = {graded.id: graded for graded, _ in both(demo, clip, []) if graded.policy == "dense"}
    for item in talking:
        later = demo.after(item.talk)
        more = later.tail(item.question).shape[1] - demo.tail(item.question).shape[1]
        assert more > 0
        entry = demo.geometry.kv_bytes(1, 4)
        assert told[item.id].kv_bytes_full == plain[item.id].kv_bytes_full + more * entry


class Alone(Uneven):
    """Every head keeps another number of entries, drawn with the budget: budgets cannot be asked for together."""

    name = "alone"
    score_knows_budget = True


@pytest.mark.parametrize("when", WHENS)
def test_holes_and_a_score_that_depends_on_the_budget_are_the_engines(
    demo: Adapter, clip: tuple[list[Item], Frames], when: When, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(POLICIES, Alone.name, Alone)
    assert_same(both(demo, clip, [Arm("alone", "0.3", when), Arm("alone", "0.2", when)]))


@pytest.mark.parametrize(
    "change",
    [
        lambda item: replace(item, truth=item.truth.upper() + "!"),
        lambda item: replace(item, truth=item.truth.rstrip(".")),
        lambda item: replace(item, truth="B", options=("Nothing.", item.truth)),
    ],
    ids=["another case", "no full stop", "a letter"],
)
def test_an_answer_in_other_words_counts_as_it_does_when_generated(
    demo: Adapter, clip: tuple[list[Item], Frames], change: Callable[[Item], Item]
) -> None:
    items, frames = clip
    pairs = both(demo, ([change(item) for item in items], frames), [Arm("random", "0.5", "known")])
    assert [ours.right for ours, _ in pairs] == [engines.right for _, engines in pairs]
    assert {ours.answer for ours, _ in pairs if ours.right} <= {engines.answer for _, engines in pairs}


def test_what_was_captured_is_what_policies_are_shown(demo: Adapter, clip: tuple[list[Item], Frames]) -> None:
    """The way into experiments: a policy is asked about a prompt that has been read once."""
    items, frames = clip
    read = captured(demo, frames).ask(items[0].question)
    (found,) = kept(read, [MethodConfig(policy="knorm", budget=Budget.parse("0.3"))])
    assert isinstance(found, Kept)
    for states, rows in zip(read.states, found.layers, strict=True):
        score = states.key.norm(dim=-1).neg().masked_fill(read.masks.protected[:, None], float("inf"))
        best = score.topk(int(0.3 * read.prompt.length), -1).indices.sort(-1).values
        assert (rows == best[0]).all()


def test_dense_diverges_from_itself_by_nothing(demo: Adapter, clip: tuple[list[Item], Frames]) -> None:
    items, frames = clip
    for graded in ReplayWay(demo).grade(items, [DENSE, Arm("random", "1", "known")], frames):
        assert (graded.kl, graded.agreement) == (0.0, 1.0)
        assert graded.kv_bytes_kept == graded.kv_bytes_full


@pytest.mark.parametrize("row", [Row((), False, False), Row((), False, True)], ids=["before the prompt", "after it"])
def test_the_first_token_of_an_answer_is_the_dense_choice_where_all_stays(
    demo: Adapter, clip: tuple[list[Item], Frames], row: Row
) -> None:
    items, frames = clip
    with torch.inference_mode():
        read = captured(demo, frames)
        (asked,) = asked_of(read, items[:1])
        assert next_tokens(read, asked, [row], [[]]) == [int(asked.dense[0].argmax())]
