"""The rendered world as a data set: which questions are asked, what comes back from its files."""

import numpy as np
import pytest

from purekv_cli.demo.clips import make_clip
from purekv_cli.eval.clipworld import chosen_questions, clip_frames, videos
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


def test_worker_processes_make_the_same_clips_in_order() -> None:
    alone = list(videos("short", range(3), GEOMETRY, questions=2))
    ahead = list(videos("short", range(3), GEOMETRY, questions=2, workers=1))
    for (items, frames), (same, again) in zip(alone, ahead, strict=True):
        assert items == same
        assert (frames.pixels == again.pixels).all()
    assert [items[0].video for items, _ in alone] == [f"clipworld/short/{seed}" for seed in range(3)]
    assert all(len(items) == 2 for items, _ in alone)
    assert len({item.id for items, _ in alone for item in items}) == 6
