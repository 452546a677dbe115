"""Groups of pictures side by side: the frames of the sequential path, and that path itself where a clip is damaged."""

import numpy as np
import pytest
from numpy.typing import NDArray

from purekv_cli.video import decode as decoding
from purekv_cli.video import parallel
from purekv_cli.video.decode import decode
from purekv_cli.video.probe import probe
from purekv_cli.video.sample import SampleSpec, sample
from tests import clips as make_clips
from tests.clips import GOOD_CLIPS, Clip, read_indices

NAMES = [recipe.name for recipe in GOOD_CLIPS if recipe.name != "one_frame.mp4"]


@pytest.fixture(params=[1, 3], ids=["one thread each", "three threads each"])
def side_by_side(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[bool]:
    """Three workers for every clip that has groups; what each run of them said."""
    said: list[bool] = []
    monkeypatch.setattr(parallel, "threads_for", lambda workers: request.param)

    def noted(*given: object) -> bool:
        said.append(parallel.decode_groups(*given))  # type: ignore[arg-type]
        return said[-1]

    monkeypatch.setattr(decoding, "decode_groups", noted)
    monkeypatch.setattr(decoding, "workers_for", lambda info, exact, groups: 1 if info.counted else 3)
    return said


@pytest.mark.parametrize("fps", [2.0, 12.0])
@pytest.mark.parametrize("name", NAMES)
def test_the_frames_are_those_of_one_reader(
    clips: dict[str, Clip], side_by_side: list[bool], name: str, fps: float
) -> None:
    clip = clips[name]
    info = probe(clip.path)
    plan = sample(info, SampleSpec(fps=fps))
    frames, alone = decode(info, plan), decode(info, plan, threads=1)
    assert read_indices(frames.pixels) == [clip.index_at(time) for time in plan.times]
    np.testing.assert_array_equal(frames.pixels, alone.pixels)
    np.testing.assert_array_equal(frames.times, alone.times)
    assert frames.damage is None
    assert side_by_side == ([] if info.counted else [True])


def test_every_frame_is_told_once_and_is_final_then(clips: dict[str, Clip], side_by_side: list[bool]) -> None:
    info = probe(clips["b_frames.mkv"].path)
    plan = sample(info, SampleSpec(fps=6.0))
    seen: dict[int, NDArray[np.uint8]] = {}
    done: list[tuple[int, int]] = []

    def take(pixels: NDArray[np.uint8], first: int, stop: int) -> None:
        assert first not in seen
        assert stop == first + 1
        seen[first] = pixels[first].copy()

    frames = decode(info, plan, on_pixels=take, on_frame=lambda count, total: done.append((count, total)))
    np.testing.assert_array_equal(np.stack([seen[index] for index in range(24)]), frames.pixels)
    assert done == [(count, 24) for count in range(1, 25)]


@pytest.mark.parametrize("packets", [range(36, 48), range(24, 36), range(12)], ids=str)
@pytest.mark.parametrize("name", ["b_frames.mkv", "vp9.webm"])
def test_damage_is_left_to_the_careful_path(
    clips: dict[str, Clip], side_by_side: list[bool], monkeypatch: pytest.MonkeyPatch, name: str, packets: range
) -> None:
    clip = make_clips.corrupted(clips[name], packets, f"bad_{min(packets)}_{len(packets)}_{name}")
    info = probe(clip.path)
    plan = sample(info, SampleSpec(fps=4.0))
    pixels: dict[int, NDArray[np.uint8]] = {}
    starts = 0

    def take(array: NDArray[np.uint8], first: int, stop: int) -> None:
        nonlocal starts
        starts += first == 0
        if first == 0:
            pixels.clear()
        pixels[first] = array[first].copy()

    frames = decode(info, plan, on_pixels=take)
    assert side_by_side == [False]
    monkeypatch.setattr(decoding, "workers_for", lambda *_: 1)
    alone = decode(info, plan)  # as many threads as before: they see damage differently
    assert side_by_side == [False]
    assert starts in (1, 2)
    assert read_indices(frames.pixels) == read_indices(alone.pixels)
    assert (frames.damage is None) == (alone.damage is None)
    np.testing.assert_array_equal(frames.times, alone.times)
    np.testing.assert_array_equal(np.stack([pixels[index] for index in range(len(frames.pixels))]), frames.pixels)


def test_an_interruption_stops_the_workers(clips: dict[str, Clip], side_by_side: list[bool]) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    info = probe(clips["b_frames.mkv"].path)
    with pytest.raises(KeyboardInterrupt):
        decode(info, sample(info, SampleSpec(fps=12.0)), on_frame=interrupt)


def test_groups_are_parted_by_keyframes(clips: dict[str, Clip]) -> None:
    info = probe(clips["b_frames.mkv"].path)  # a keyframe each second
    exact = [info.ticks(info.frame_times[index]) for index in (0, 3, 11, 12, 30, 31, 47)]
    assert parallel.groups_of(info, exact) == [[0, 1, 2], [3], [4, 5], [6]]


class TestWorkers:
    def workers(self, clip: Clip, monkeypatch: pytest.MonkeyPatch, **limits: int) -> int:
        given = {"LEAST_FRAMES": 40, "cpus": 8, "free": 2**34} | limits
        monkeypatch.setattr(parallel, "LEAST_FRAMES", given["LEAST_FRAMES"])
        monkeypatch.setattr(parallel.os, "sched_getaffinity", lambda _: range(given["cpus"]), raising=False)
        monkeypatch.setattr(parallel, "free_memory", lambda: given["free"])
        info = probe(clip.path)
        exact = [info.ticks(time) for time in info.frame_times]
        return parallel.workers_for(info, exact, parallel.groups_of(info, exact))

    def test_one_for_each_group(self, clips: dict[str, Clip], monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.workers(clips["b_frames.mkv"], monkeypatch) == 4

    def test_no_more_than_processors(self, clips: dict[str, Clip], monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.workers(clips["variable.mp4"], monkeypatch, LEAST_FRAMES=2, cpus=3) == 1
        assert self.workers(clips["open_gop.mkv"], monkeypatch, cpus=4) == 4

    def test_none_beside_the_first_for_a_short_clip(
        self, clips: dict[str, Clip], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.workers(clips["b_frames.mkv"], monkeypatch, LEAST_FRAMES=49) == 1

    def test_as_many_as_memory_has_room_for(self, clips: dict[str, Clip], monkeypatch: pytest.MonkeyPatch) -> None:
        picture = 2 * 96 * 128 * 24
        assert self.workers(clips["b_frames.mkv"], monkeypatch, free=4 * 2 * picture) == 2
        assert self.workers(clips["b_frames.mkv"], monkeypatch, free=0) == 1

    @pytest.mark.parametrize(
        ("cpus", "workers", "threads"), [(16, 4, 4), (16, 6, 2), (16, 16, 1), (2, 3, 1), (64, 2, 4)]
    )
    def test_idle_processors_go_to_the_decoders(
        self, monkeypatch: pytest.MonkeyPatch, cpus: int, workers: int, threads: int
    ) -> None:
        monkeypatch.setattr(parallel.os, "sched_getaffinity", lambda _: range(cpus), raising=False)
        assert parallel.threads_for(workers) == threads

    def test_streams_without_timestamps_are_read_in_sequence(
        self, clips: dict[str, Clip], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.workers(clips["raw.264"], monkeypatch) == 1


def test_a_target_is_decoded_from_its_own_keyframe_when_work_is_counted(clips: dict[str, Clip]) -> None:
    info = probe(clips["b_frames.mkv"].path)
    for index, frames in ((0, 1), (11, 12), (12, 1), (47, 12)):
        exact = [info.ticks(info.frame_times[index])]
        assert parallel.frames_to_decode(info, exact, parallel.groups_of(info, exact)) == frames
