"""The rendered world as a data set: which questions are asked, what comes back from its files."""

import numpy as np
import pytest

from purekv_cli.demo.clips import make_clip
from purekv_cli.eval.clipworld import chosen_questions, clip_frames, items_of
from purekv_cli.models.registry import resolve

GEOMETRY = resolve("demo").geometry


def test_questions_are_chosen_by_the_seed_and_hold_the_narration() -> None:
    clip = make_clip(3, "short")
    chosen = chosen_questions(clip, 4)
    assert len(chosen) == 4
    assert chosen == chosen_questions(make_clip(3, "short"), 4)
    assert chosen[0].type == "narration"
    assert chosen_questions(clip, None) == list(clip.questions)


def test_a_clip_comes_back_from_its_file_frame_by_frame() -> None:
    clip = make_clip(5, "short")
    frames = clip_frames(clip, GEOMETRY)
    assert frames.seconds_per_frame == pytest.approx(clip.seconds_per_frame)
    assert np.abs(frames.pixels.astype(int) - clip.frames()).mean() < 6  # grey levels: H.264's loss, no frame amiss


def test_every_question_is_an_item_of_its_own() -> None:
    items = [item for seed in range(3) for item in items_of(make_clip(seed, "short"), 2)]
    assert [items[at].video for at in (0, 2, 4)] == [f"clipworld/short/{seed}" for seed in range(3)]
    assert len({item.id for item in items}) == 6
