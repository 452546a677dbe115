"""The variant for tests: the same things and answers, another ground, and a camera that never rests."""

from pathlib import Path

import numpy as np
import pytest

from purekv_cli.demo import outdoors
from purekv_cli.demo.clips import INDOORS, SUITES, Clip, make_clip, read_frames, write_clip
from purekv_cli.demo.staging import RGB, SLOTS, stage

SEEDS = (0, 3, 12)


@pytest.fixture(scope="module", params=SEEDS, ids="seed {}".format)
def clip(request: pytest.FixtureRequest) -> Clip:
    return make_clip(request.param, "outdoors-short")


@pytest.fixture(scope="module")
def frames(clip: Clip) -> np.ndarray:
    return clip.frames()


def test_scene_and_answers_are_those_of_the_plain_suite() -> None:
    for suite, plain in INDOORS.items():
        assert SUITES[suite] == SUITES[plain]
        for seed in range(10):
            ours, theirs = make_clip(seed, suite), make_clip(seed, plain)
            assert (ours.scene, ours.questions) == (theirs.scene, theirs.questions)
            assert (ours.suite, theirs.suite) == (suite, plain)


def test_only_what_lies_behind_the_things_is_another(clip: Clip, frames: np.ndarray) -> None:
    plain, slots = make_clip(clip.seed, "short").frames(), stage(clip.scene).slots
    assert plain.shape == frames.shape
    y, x = np.indices(frames.shape[1:3]) + 0.5
    for frame in range(0, len(frames), 5):
        distance = [
            np.hypot(x - cx, y - cy) / size for cx, cy, size, *_, opacity in slots[frame] if opacity and size > 0
        ]
        near = np.min(distance, 0)
        same = (frames[frame] == plain[frame]).all(-1)
        assert same[near > 0.75].mean() < 0.02
        solid = [k for k in range(SLOTS) if slots[frame, k, 7] and slots[frame, k, 3] in (0, 1)]  # circles, squares
        for slot in solid:
            cx, cy, size = slots[frame, slot, :3]
            assert same[np.hypot(x - cx, y - cy) < 0.3 * size].all()


def test_it_is_its_seed(clip: Clip, frames: np.ndarray) -> None:
    assert np.array_equal(make_clip(clip.seed, clip.suite).frames(), frames)
    assert not np.array_equal(make_clip(clip.seed + 1, clip.suite).frames()[0], frames[0])


def test_the_ground_moves_in_every_frame(clip: Clip) -> None:
    """More than in a still picture, noise apart, in nearly every pixel: by whole and parts of pixels."""
    staging = stage(clip.scene)
    at = outdoors.backdrop(clip.scene, staging)
    seen = np.stack([np.concatenate([plane.numpy() for plane in at(f)]) for f in range(len(staging.camera))])
    assert seen.shape[1:] == (3, clip.scene.height, clip.scene.width)
    assert (np.abs(np.diff(seen, axis=0)).max(1) > 0.5).mean((1, 2)).min() > 0.9


@pytest.mark.parametrize("seed", range(5))
def test_the_camera_pans_evenly_and_turns(seed: int) -> None:
    steps = np.diff(outdoors.pan(400, np.random.default_rng(seed)), axis=0)
    speed = np.hypot(*steps.T)
    assert outdoors.SPEEDS[0] <= speed.min() <= speed.max() <= outdoors.SPEEDS[1]
    np.testing.assert_allclose(speed, speed[0])
    assert np.ptp(np.unwrap(np.arctan2(*steps.T))) > 0.5
    assert (steps % 1 > 0.01).mean() > 0.9


def test_a_frame_is_the_ground_moved_in_parts_of_a_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_clip(3, "outdoors-short").scene
    staging = stage(scene)
    staging.camera[:, :2] = 500, 0
    monkeypatch.setattr(outdoors, "pan", lambda frames, rng: np.arange(frames)[:, None] * np.array([0.5, 2.0]))
    rng = np.random.default_rng([scene.seed, 78])
    ground = outdoors.natural_ground(rng)
    at = outdoors.backdrop(scene, staging)
    whole = np.roll(ground, (-4, -501), (1, 2))[:, : scene.height, : scene.width]
    after = np.roll(ground, (-6, -501), (1, 2)), np.roll(ground, (-6, -502), (1, 2))
    half = sum(after)[:, : scene.height, : scene.width] / 2
    np.testing.assert_allclose(np.concatenate(at(2)), whole, atol=1e-4)
    np.testing.assert_allclose(np.concatenate(at(3)), half, atol=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_ground_is_darker_and_duller_than_any_thing_and_tiles(seed: int) -> None:
    ground = outdoors.natural_ground(np.random.default_rng(seed))
    assert ground.shape == (3, outdoors.SIDE, outdoors.SIDE)
    colours = np.array(list(RGB.values()))
    assert ground.max() < colours.max(1).min()
    assert np.ptp(ground, axis=0).max() < np.ptp(colours[colours.min(1) < 200], axis=1).min()
    steps = np.abs(np.diff(ground, axis=2, append=ground[:, :, :1])).mean((0, 1))
    assert steps[-1] < 2 * steps[:-1].mean()
    assert ground.std() > 8


def test_it_survives_its_file(clip: Clip, frames: np.ndarray, tmp_path: Path) -> None:
    write_clip(clip, tmp_path / "clip.mp4")
    back, seconds = read_frames(tmp_path / "clip.mp4")
    assert back.shape == frames.shape
    assert seconds == pytest.approx(clip.seconds_per_frame)
    assert np.abs(back.astype(int) - frames).mean() < 8
