"""Shares of patches, layers and seconds, by hand and as properties."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.explain.blocks import blocks
from purekv_cli.explain.timeline import Timeline, in_bins, per_second
from tests.explain.made import made


def test_shares_of_patches_are_of_layers_and_heads() -> None:
    kept = made()
    assert kept.patches()[0].tolist() == [[1, 0, 0], [0, 0, 0]]
    assert kept.patches()[1].tolist() == [[0.5, 0.5, 0.5]] * 2
    assert kept.patches(0)[1].max() == 0
    assert kept.patches(1)[1].min() == 1
    assert kept.by_layer.tolist() == [1 / 12, 7 / 12]


def test_the_archive_holds_the_positions_of_every_head(tmp_path: Path) -> None:
    kept = made()
    kept.save(tmp_path / "kept.npz")
    with np.load(tmp_path / "kept.npz") as read:
        assert read["counts"].tolist() == [[6, 6], [12, 12]]
        assert read["positions"][0, 1].tolist() == [0, 1, 2, 3, 15, 16] + [-1] * 6
        assert read["grid"].tolist() == [2, 2, 3]
        assert read["video"].tolist() == list(range(3, 15))
        assert read["steps"].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("frames", "steps"), [(1, [0]), (2, [0, 1]), (3, [0, 0, 1]), (4, [0, 0, 1, 1])])
def test_frames_belong_to_steps(frames: int, steps: list[int]) -> None:
    kept = made(frames)
    if frames == 1:
        kept = replace(kept, grid=(1, 4, 3))
    assert kept.steps.tolist() == steps


def test_a_second_is_the_mean_over_its_time() -> None:
    timeline = per_second(made(frames=4, seconds=0.75))  # 1.5 s of a sixth, then as long of a half
    assert timeline.edges.tolist() == [0, 1, 2, 3]
    assert timeline.shares == pytest.approx([1 / 6, (1 / 6 + 1 / 2) / 2, 1 / 2])
    assert timeline.peak == (2, pytest.approx(1 / 2))


@given(frames=st.integers(2, 9), seconds=st.floats(0.01, 40), bins=st.integers(1, 50))
def test_bins_of_any_width_hold_the_same_mass(frames: int, seconds: float, bins: int) -> None:
    kept = made(frames, seconds)
    whole = (kept.patches().mean((1, 2))[kept.steps] * seconds).sum()
    for timeline in (per_second(kept), in_bins(kept, bins)):
        assert (timeline.shares * np.diff(timeline.edges)).sum() == pytest.approx(whole)
        assert timeline.edges[-1] == pytest.approx(kept.end)


def test_the_terminal_picture_is_as_tall_as_the_share() -> None:
    timeline = Timeline(np.arange(5.0), np.array([0, 0.1, 0.2, 0.4]))
    assert [line[:4] for line in blocks(timeline, rows=2)] == ["   █", " ▄██", "0:00"]
    assert "40%" in blocks(timeline)[0]


def test_nothing_kept_is_an_empty_picture() -> None:
    assert blocks(Timeline(np.arange(3.0), np.zeros(2)), rows=1)[0].startswith("    0%")
