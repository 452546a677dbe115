"""Changes of scene are found where they are, motion and flashes are none, and every scene is seen by its true times."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from purekv_cli.errors import UsageError
from purekv_cli.video import scenes as finding
from purekv_cli.video.decode import decode
from purekv_cli.video.info import VideoInfo
from purekv_cli.video.probe import probe
from purekv_cli.video.sample import SamplePlan, SampleSpec, sample
from purekv_cli.video.scenes import changes, find_scenes
from tests.clips import Recipe, corrupted, film, image_folder, make

Pictures = NDArray[np.uint8]
FPS = 12


def look(kind: int, height: int = 64, width: int = 96) -> Pictures:
    """A coarse picture that differs from any other kind's."""
    cells = np.random.default_rng(kind).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    return np.kron(cells, np.ones((height // 4, width // 6, 1), np.uint8))


def fade(one: Pictures, other: Pictures, count: int) -> list[Pictures]:
    return [(one * (1 - k / count) + other * (k / count)).astype(np.uint8) for k in range(1, count)]


def grain(pictures: list[Pictures]) -> list[Pictures]:
    noise = np.random.default_rng(5)
    return [np.clip(p.astype(int) + noise.integers(-8, 8, p.shape), 0, 255).astype(np.uint8) for p in pictures]


def seen(path: Path, **spec: object) -> tuple[VideoInfo, SamplePlan]:
    """The clip with its scenes, and its sampling by scene."""
    wanted = SampleSpec(**{"mode": "scene", **spec})  # type: ignore[arg-type]
    info = probe(path)
    info = replace(info, scenes=find_scenes(info, wanted))
    return info, sample(info, wanted)


def starts(info: VideoInfo) -> list[float]:
    return [scene.start for scene in info.scenes]


class TestFound:
    def test_cuts_are_found_to_the_frame(self, tmp_path: Path) -> None:
        info, _ = seen(film(tmp_path / "cuts.mp4", grain([look(1)] * 30 + [look(2)] * 17 + [look(3)] * 25)))
        assert starts(info) == pytest.approx([0, 30 / FPS, 47 / FPS])
        assert [scene.last for scene in info.scenes] == pytest.approx([29 / FPS, 46 / FPS, 71 / FPS])
        assert info.scenes[-1].end == pytest.approx(72 / FPS)

    def test_a_minute_has_its_cuts_wherever_keyframes_are(self, tmp_path: Path) -> None:
        lengths = [40, 7, 90, 13, 55, 30, 5, 61, 24, 77]
        pictures = [look(kind) for kind, length in enumerate(lengths) for _ in range(length)]
        info, _ = seen(film(tmp_path / "many.mp4", pictures))
        assert starts(info) == pytest.approx([sum(lengths[:i]) / FPS for i in range(len(lengths))])

    @pytest.mark.parametrize("length", [4, 10, 18, 23])
    def test_a_fade_belongs_to_neither_scene(self, tmp_path: Path, length: int) -> None:
        pictures = [look(1)] * 36 + fade(look(1), look(2), length) + [look(2)] * 36
        info, plan = seen(film(tmp_path / "fade.mp4", grain(pictures)), frames=8)
        first, second = info.scenes
        assert first.last <= (36 + length * 0.35) / FPS
        assert (36 + length * 0.65 - 1) / FPS <= second.start <= (36 + length) / FPS
        assert all(time <= first.last or time >= second.start for time in plan.times)

    def test_a_fade_beside_a_cut_is_found_too(self, tmp_path: Path) -> None:
        pictures = [look(1)] * 20 + [look(2)] * 20 + fade(look(2), look(3), 20) + [look(3)] * 21
        info, _ = seen(film(tmp_path / "both.mp4", pictures))
        assert len(info.scenes) == 3

    def test_through_black_and_back_to_the_same_is_one_scene_or_three(self, tmp_path: Path) -> None:
        black = np.zeros_like(look(1))
        dark = fade(look(1), black, 6) + [black] * 24 + fade(black, look(1), 6)
        info, _ = seen(film(tmp_path / "black.mp4", [look(1)] * 30 + dark + [look(1)] * 30))
        assert len(info.scenes) == 3
        info, _ = seen(film(tmp_path / "blink.mp4", [look(1)] * 30 + [black] * 2 + [look(1)] * 30))
        assert len(info.scenes) == 1

    def test_motion_is_no_change_of_scene(self, tmp_path: Path) -> None:
        wide = np.concatenate([look(kind, 64, 96) for kind in range(6)], axis=1)
        info, plan = seen(film(tmp_path / "pan.mp4", [wide[:, 4 * i : 4 * i + 96] for i in range(100)]))
        assert len(info.scenes) == 1
        assert plan.even
        assert plan.note == "no change of scene was found: frames are spread evenly"

    def test_a_cut_between_moving_scenes_is_found(self, tmp_path: Path) -> None:
        shifted = [np.roll(look(1), i, axis=1) for i in range(40)] + [np.roll(look(2), -i, axis=0) for i in range(40)]
        info, _ = seen(film(tmp_path / "moving.mp4", shifted))
        assert starts(info) == pytest.approx([0, 40 / FPS])

    def test_uneven_frames_keep_their_own_times(self, tmp_path: Path) -> None:
        ticks = [0, 1, 2, 30, 31, 60, 61, 62, 63, 100]
        pictures = [look(1)] * 3 + [look(2)] * 2 + [look(3)] * 4 + [look(4)]
        info, plan = seen(film(tmp_path / "uneven.mp4", pictures, ticks=ticks), group=2)
        assert starts(info) == pytest.approx([0, 30 / FPS, 60 / FPS, 100 / FPS])
        shown = {round(time * FPS) for time in plan.times}
        assert shown <= set(ticks)
        assert len({scene_of(info, time) for time in plan.times}) == 4

    def test_one_frame_and_one_picture_are_one_scene(self, tmp_path: Path) -> None:
        _, plan = seen(make(tmp_path, Recipe(frames=1)).path)
        assert plan.times == (0.0,)
        _, plan = seen(next(image_folder(tmp_path / "one", 1).iterdir()))
        assert plan.times == (0.0,)
        assert plan.note is not None

    def test_a_folder_of_pictures_may_have_scenes(self, tmp_path: Path) -> None:
        from PIL import Image

        for index, kind in enumerate([1, 1, 1, 2, 2, 3, 3, 3]):
            Image.fromarray(look(kind)).save(tmp_path / f"{index}.png")
        info, plan = seen(tmp_path, frames=3)
        assert starts(info) == [0, 3, 5]
        assert plan.times == (1.0, 4.0, 6.0)

    def test_a_range_is_searched_alone(self, tmp_path: Path) -> None:
        path = film(tmp_path / "cuts.mp4", [look(1)] * 30 + [look(2)] * 30 + [look(3)] * 30)
        info, plan = seen(path, start=3.0, end=6.5)
        assert starts(info) == pytest.approx([3.0, 5.0])
        assert all(3.0 <= time < 6.5 for time in plan.times)
        with pytest.raises(UsageError, match="past the clip's end"):
            find_scenes(probe(path), SampleSpec(mode="scene", start=9.0))

    def test_damage_costs_frames_not_the_search(self, tmp_path: Path) -> None:
        info, _ = seen(corrupted(make(tmp_path, Recipe()), range(20, 24), "damaged.mp4").path)
        assert info.scenes[0].start == 0

    def test_a_long_clip_is_judged_by_its_keyframes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = film(tmp_path / "long.mp4", [look(1)] * 48 + [look(2)] * 48)
        monkeypatch.setattr(finding, "MOST_PIXELS", 1000)
        info, _ = seen(path)
        assert starts(info) == pytest.approx([0, 48 / FPS])
        assert info.scenes[0].last == pytest.approx(24 / FPS)  # the keyframe before

    def test_the_same_file_gives_the_same_scenes(self, tmp_path: Path) -> None:
        path = film(tmp_path / "cuts.mp4", grain([look(1)] * 30 + [look(2)] * 17 + [look(3)] * 25))
        info = probe(path)
        once = find_scenes(info, SampleSpec(mode="scene"), threads=1)
        assert find_scenes(info, SampleSpec(mode="scene")) == once


def scene_of(info: VideoInfo, time: float) -> int:
    return max(index for index, scene in enumerate(info.scenes) if scene.start <= time + 1e-6)


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    find_scenes(probe(make(tmp_path, Recipe()).path), SampleSpec(mode="scene"), lambda *step: told.append(step))
    assert told == [(done, 48) for done in range(1, 49)]


def test_frames_decoded_for_a_plan_show_the_scenes(tmp_path: Path) -> None:
    path = film(tmp_path / "cuts.mp4", [look(1)] * 5 + [look(2)] * 60 + [look(3)] * 30)
    info, plan = seen(path, frames=8, group=2)
    frames = decode(info, plan)
    nearest = [
        min((1, 2, 3), key=lambda kind: float(np.abs(image.astype(int) - look(kind)).mean())) for image in frames.pixels
    ]
    assert nearest == [1, 1, 2, 2, 2, 2, 3, 3]
    assert not frames.even
    assert tuple(frames.times) == plan.times == tuple(frames.targets)


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(5, 30), min_size=1, max_size=8),
    gap=st.sampled_from([0.08, 0.1, 0.25, 1.0]),
    seed=st.integers(0, 99),
)
def test_every_cut_between_still_scenes_is_found_and_nothing_else(lengths: list[int], gap: float, seed: int) -> None:
    pictures = np.stack([look(seed + kind, 16, 24) for kind, length in enumerate(lengths) for _ in range(length)])
    found = changes(np.arange(len(pictures)) * gap, pictures)
    assert [change.after for change in found] == [sum(lengths[:i]) for i in range(1, len(lengths))]
    assert all(change.before == change.after - 1 for change in found)


@settings(max_examples=60)
@given(
    st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.floats(0.01, 5), min_size=n, max_size=n))),
    st.integers(0, 10**6),
)
def test_whatever_the_pictures_changes_are_in_order_and_apart(clip: tuple[int, list[float]], seed: int) -> None:
    count, gaps = clip
    random = np.random.default_rng(seed)
    pictures = random.integers(0, 256, (count, 2, 3, 3), dtype=np.uint8)
    edges = [change for found in changes(np.cumsum(gaps), pictures) for change in (found.before, found.after)]
    assert edges == sorted(edges)
    assert all(0 <= edge < count for edge in edges)
