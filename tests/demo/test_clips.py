"""Clips as files: what is written comes back through the demo's own reader and through the product's video side."""

import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from purekv_cli.demo import sample_clip
from purekv_cli.demo.batches import BatchPlan, make_batch
from purekv_cli.demo.clips import (
    FIRST_TRAINING_SEED,
    HELD_OUT_SEEDS,
    SUITES,
    Clip,
    draw_size,
    draw_spacing,
    make_clip,
    read_frames,
    write_clip,
    write_frames,
)
from purekv_cli.demo.world import FRAME_SIDES
from purekv_cli.video.decode import decode
from purekv_cli.video.probe import probe
from purekv_cli.video.sample import SampleSpec, sample


@pytest.fixture(scope="module", params=[3, 4, 12], ids="seed {}".format)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, Path]:
    clip = make_clip(request.param, "short")
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(clip, path)
    return clip, path


def test_clips_are_their_seed() -> None:
    assert make_clip(7, "short") == make_clip(7, "short")
    assert np.array_equal(make_clip(7, "short").frames(), make_clip(7, "short").frames())
    clips = [make_clip(seed, suite) for seed in range(30) for suite in ("short", "medium")]
    assert len({(clip.scene, clip.questions) for clip in clips}) == len(clips)


def test_suites_differ_in_length_and_spacing_and_size_vary() -> None:
    for suite, patches in SUITES.items():
        clips = [make_clip(seed, suite) for seed in range(40)]
        assert {clip.scene.patches for clip in clips} == {patches}
        spacings = [clip.seconds_per_frame for clip in clips]
        assert 0.125 <= min(spacings) < 0.25 < 1 < max(spacings) <= 2
        sizes = [(clip.scene.height, clip.scene.width) for clip in clips]
        assert 10 < sizes.count((224, 224)) < 40
        assert {side for size in sizes for side in size} <= set(FRAME_SIDES)


def test_an_unknown_suite_is_an_error() -> None:
    with pytest.raises(KeyError):
        make_clip(0, "endless")


def test_spacing_and_size_stay_in_their_range() -> None:
    import random

    rng = random.Random(0)
    spacings = {draw_spacing(rng) for _ in range(3000)}
    assert (min(spacings), max(spacings)) == (125, 2000)
    assert all(spacing % 25 == 0 for spacing in spacings)
    assert {draw_size(rng, 1.0)[0] for _ in range(200)} == set(FRAME_SIDES)


def test_every_frame_comes_back(written: tuple[Clip, Path]) -> None:
    clip, path = written
    frames, seconds = read_frames(path)
    drawn = clip.frames()
    assert frames.shape == drawn.shape
    assert seconds == pytest.approx(clip.seconds_per_frame, abs=1e-9)
    error = np.abs(frames.astype(int) - drawn)
    assert error.mean() < 6
    # each frame is nearer to its own drawing than to any other that differs from it
    for index in range(len(drawn)):
        distance = np.abs(drawn.astype(int) - frames[index]).mean((1, 2, 3))
        assert distance[index] <= distance.min() + 1e-9


def test_the_product_reads_the_same_frames(written: tuple[Clip, Path]) -> None:
    clip, path = written
    drawn = clip.frames()
    info = probe(path)
    assert (info.frame_count, info.height, info.width) == drawn.shape[:3]
    assert info.duration == pytest.approx(len(drawn) * clip.seconds_per_frame)
    assert not info.variable_frame_rate
    assert info.damage is None
    plan = sample(info, SampleSpec(fps=1 / clip.seconds_per_frame))
    frames = decode(info, plan, threads=1)
    assert frames.seconds_per_frame == pytest.approx(clip.seconds_per_frame)
    assert frames.times == pytest.approx(np.arange(len(drawn)) * clip.seconds_per_frame)
    ours, _ = read_frames(path)
    assert frames.pixels.shape == ours.shape
    assert np.abs(frames.pixels.astype(int) - ours).max() <= 2  # the colour conversion's rounding


@pytest.mark.parametrize("spacing", [125, 325, 1975, 2000])
def test_any_spacing_survives_the_file(tmp_path: Path, spacing: int) -> None:
    levels = np.linspace(0, 255, 7).astype(np.uint8)
    grey = np.broadcast_to(levels[:, None, None, None], (7, 56, 84, 3))
    write_frames(grey, spacing, tmp_path / "grey.mp4")
    info = probe(tmp_path / "grey.mp4")
    assert info.frame_times == pytest.approx([i * spacing / 1000 for i in range(7)])
    frames = decode(info, sample(info, SampleSpec(fps=1000 / spacing)), threads=1)
    assert np.abs(frames.pixels.mean((1, 2, 3)) - levels).max() < 3


def test_the_sample_clip_is_written(tmp_path: Path) -> None:
    clip = sample_clip(tmp_path / "sample.mp4")
    frames, seconds = read_frames(tmp_path / "sample.mp4")
    assert frames.shape == (32, 224, 224, 3)
    assert seconds == pytest.approx(0.5)
    assert clip.questions[0].type == "narration"
    assert len(clip.scene.events) >= 3


def test_training_never_sees_held_out_seeds() -> None:
    assert min(FIRST_TRAINING_SEED, FIRST_TRAINING_SEED - 1_000_000) not in HELD_OUT_SEEDS
    held_out = {make_clip(seed, "short").scene.things for seed in islice(HELD_OUT_SEEDS, 60)}
    for seed in (0, 1, 100_000):
        batch = make_batch(BatchPlan(seed, clips=4, patches=16, height=224, width=224, shorts=1, longs=1))
        assert (batch.types >= 0).all()
        from purekv_cli.demo.world import make_scene

        for row in range(4):
            scene = make_scene(FIRST_TRAINING_SEED + seed * 1024 + row, 16)
            assert FIRST_TRAINING_SEED + seed * 1024 + row not in HELD_OUT_SEEDS
            assert scene.things not in held_out


def test_importing_the_demo_leaves_torch_alone() -> None:
    code = (
        "import sys, purekv_cli.demo, purekv_cli.demo.clips, purekv_cli.demo.language; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'av')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
