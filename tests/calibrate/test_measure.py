"""Measuring by replay: dense's own answers, and trials put together layer by layer."""

from dataclasses import replace

import pytest
import torch

from purekv_cli.calibrate.measure import Measured
from purekv_cli.calibrate.questions import asked_of
from purekv_cli.calibrate.trials import Trial
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
    whole = Trial("budget", "purekv 1", (Arm("purekv", "1", "known"),))
    seen.add(demo, [replace(items[0], truth="")], frames, [whole], longest=3)
    assert (seen.dense_right, seen.outcomes[whole][0].right) == (1, True)
    assert seen.outcomes[whole][0].kl == pytest.approx(0, abs=1e-5)


def test_layers_of_one_budget_each_put_together_are_that_budget(demo: Adapter, clip: tuple[list[Item], Frames]) -> None:
    items, frames = clip
    narrow, wide = (Arm("purekv", budget, "known") for budget in ("0.3", "0.5"))
    whole, parts = Trial("budget", "whole", (narrow,)), Trial("layer budgets", "parts", (narrow,) * 8)
    mixed = Trial("layer budgets", "mixed", (wide, *(narrow,) * 7))
    impossible = Trial("budget", "impossible", (Arm("purekv", "0.01", "known"),))
    seen = Measured()
    seen.add(demo, items, frames, [whole, parts, mixed, impossible], LONGEST)
    assert seen.outcomes[whole] == seen.outcomes[parts]
    first, second = seen.outcomes[whole][0], seen.outcomes[mixed][0]
    assert second.kept == pytest.approx(first.kept + 0.2 / 8, abs=0.002)
    assert impossible not in seen.outcomes
    assert "text that must stay" in seen.errors[impossible]
    assert (seen.videos, seen.questions) == (1, 2)
    assert [len(found) for found in seen.found.values()] == [2, 1, 1]  # the other rows are read once a clip
