"""Measuring by replay: dense's own answers, and what every trial makes of them."""

from dataclasses import replace

import pytest
import torch

from purekv_cli.calibrate.measure import Measured
from purekv_cli.calibrate.questions import asked_of
from purekv_cli.calibrate.trials import Dialled, Trial
from purekv_cli.demo.clips import make_clip
from purekv_cli.eval.arms import Arm
from purekv_cli.eval.clipworld import clip_frames, items_of
from purekv_cli.eval.engine_way import EngineWay
from purekv_cli.eval.records import Item
from purekv_cli.eval.replay_prefill import captured
from purekv_cli.models.base import Adapter
from purekv_cli.models.registry import load, resolve
from purekv_cli.video.frames import Frames

LONGEST = 48


@pytest.fixture(scope="module")
def demo() -> Adapter:
    return load(resolve("demo"), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def clip(demo: Adapter) -> tuple[list[Item], Frames]:
    """Eight frames."""
    made = make_clip(900_000, "short")
    frames = clip_frames(made, demo.geometry)
    return items_of(made, 2), replace(frames, **{n: getattr(frames, n)[:8] for n in ("pixels", "times", "targets")})


def test_without_a_truth_denses_own_answer_is_followed(demo: Adapter, clip: tuple[list[Item], Frames]) -> None:
    items, frames = clip
    generated = [row.answer for row in EngineWay(demo).grade(items, [Arm("dense", "1", "unknown")], frames)]
    with torch.inference_mode():
        asked = asked_of(captured(demo, frames), [replace(item, truth="") for item in items], LONGEST)
    assert [
        demo.tokenizer.decode(each.truth.tolist(), clean_up_tokenization_spaces=False) for each in asked
    ] == generated


def test_an_answer_that_is_cut_short_can_be_right(demo: Adapter, clip: tuple[list[Item], Frames]) -> None:
    items, frames = clip
    seen = Measured()
    whole = Trial("budget", "purekv 1", Dialled("purekv", "1", "known"))
    seen.add(demo, [replace(items[0], truth="")], frames, [whole], longest=3)
    assert (seen.dense_right, seen.outcomes[whole][0].right) == (1, True)
    assert seen.outcomes[whole][0].distance == pytest.approx(0, abs=1e-5)


def test_every_trial_is_told_of_every_question_or_why_not(demo: Adapter, clip: tuple[list[Item], Frames]) -> None:
    items, frames = clip
    ours = Trial("budget", "ours", Dialled("purekv", "0.4", "known"))
    shaped = Trial("layer budgets", "shaped", Dialled("purekv", "0.4", "known", layer_weights=(2.0, *(1.0,) * 7)))
    scored = Trial("score layer", "layer 3", Dialled("purekv-paper", "0.4", "known", score_layers=(3,)))
    impossible = Trial("budget", "impossible", Dialled("purekv", "0.01", "known"))
    seen = Measured()
    seen.add(demo, items, frames, [ours, shaped, scored, impossible], LONGEST, correlate=True)
    assert [outcome.question for outcome in seen.outcomes[ours]] == [0, 1]
    first, second, third = (seen.outcomes[trial][0] for trial in (ours, shaped, scored))
    assert second.kept == pytest.approx(first.kept, abs=0.01)  # equal bytes
    assert len({first.distance, second.distance, third.distance}) == 3  # and yet not the same
    assert impossible not in seen.outcomes
    assert "text that must stay" in seen.errors[impossible]
    assert (seen.videos, seen.questions) == (1, 2)
    assert [len(found) for found in seen.found.values()] == [2, 1, 1]  # the other rows are read once a clip
