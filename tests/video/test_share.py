"""Frames are shared out fairly: every scene, then the longer ones; whole pairs; true times; never too many."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.video.info import Scene, VideoInfo
from purekv_cli.video.sample import SampleSpec, sample
from purekv_cli.video.share import share
from tests.video.test_sample import clip, even


def cut(info: VideoInfo, firsts: list[int], sizes: list[float]) -> tuple[Scene, ...]:
    """Scenes that begin at these frames."""
    times, edges = info.frame_times, [0, *firsts, info.frame_count]
    return tuple(
        Scene(times[a], times[b - 1], times[b] if b < len(times) else info.duration, size)
        for (a, b), size in zip(pairwise(edges), [0.0, *sizes], strict=True)
    )


def counts(scenes: tuple[Scene, ...], times: tuple[float, ...]) -> list[int]:
    return [sum(scene.start <= time < scene.end for time in times) for scene in scenes]


def test_each_scene_is_seen_and_longer_ones_more_often() -> None:
    info = even(100, 10.0)
    scenes = cut(info, [10, 70], [0.5, 0.5])
    times, joined = share(info, scenes, 10)
    assert counts(scenes, times) == [1, 6, 3]
    assert joined == 0
    assert times[0] == 0.5  # the middle of its second


def test_pairs_stay_within_a_scene() -> None:
    info = even(100, 10.0)
    scenes = cut(info, [10, 70], [0.5, 0.5])
    times, _ = share(info, scenes, 9, group=2)
    assert counts(scenes, times) == [2, 4, 2]


def test_a_scene_of_one_frame_shows_it_twice_to_a_model_that_takes_pairs() -> None:
    info = even(41, 10.0)
    times, _ = share(info, cut(info, [20, 21], [0.5, 0.5]), 12, group=2)
    assert times.count(2.0) == 2


def test_more_scenes_than_frames_lose_their_least_changes() -> None:
    info = even(40, 10.0)
    scenes = cut(info, [10, 20, 30], [0.2, 0.9, 0.3])
    times, joined = share(info, scenes, 2)
    assert joined == 2
    assert times == (1.0, 3.0)
    plan = sample(clip(info.frame_times, info.duration, scenes=scenes), SampleSpec(mode="scene", frames=4, group=2))
    assert plan.note == "2 of 4 scenes are seen with the one before: more do not fit"
    assert plan.seconds_per_frame == 1.0


def test_caps_are_said() -> None:
    info = even(400, 10.0)
    info = clip(info.frame_times, info.duration, scenes=cut(info, [100], [0.5]))
    assert sample(info, SampleSpec(mode="scene", max_frames=10)).note == "10 of 80 frames: the cap is 10 (--max-frames)"
    assert len(sample(info, SampleSpec(mode="scene")).times) == 80  # what --fps would take
    assert len(sample(info, SampleSpec(mode="scene", frames=6)).times) == 6


def test_no_time_lies_before_the_range() -> None:
    """The frame on show at its beginning began before."""
    info = even(40, 10.0)
    info = clip(info.frame_times, info.duration, scenes=cut(info, [1], [0.5]))
    assert sample(info, SampleSpec(mode="scene", frames=2, start=0.05)).times[0] == 0.05


def test_one_scene_is_sampled_evenly() -> None:
    info = even(40, 10.0)
    info = clip(info.frame_times, info.duration, scenes=cut(info, [], []))
    plan = sample(info, SampleSpec(mode="scene", frames=4))
    assert plan.times == sample(info, SampleSpec(mode="uniform", frames=4)).times
    assert plan.even
    assert sample(info, SampleSpec(mode="scene")).times == sample(info, SampleSpec()).times


@st.composite
def cut_clips(draw: st.DrawFn) -> tuple[VideoInfo, tuple[Scene, ...]]:
    gaps = draw(st.lists(st.sampled_from([1 / 30, 0.1, 1.5]), min_size=1, max_size=80))
    times = [0.0]
    for gap in gaps[:-1]:
        times.append(times[-1] + gap)
    info = clip(tuple(times), times[-1] + gaps[-1])
    firsts = draw(st.sets(st.integers(1, max(1, len(times) - 1)))) if len(times) > 1 else set()
    firsts = {first for first in firsts if first < len(times)}
    return info, cut(
        info, sorted(firsts), draw(st.lists(st.floats(0.06, 1), min_size=len(firsts), max_size=len(firsts)))
    )


@given(cut_clips(), st.integers(1, 60), st.sampled_from([1, 2]))
def test_shares_are_within_bounds_whatever_the_clip(
    made: tuple[VideoInfo, tuple[Scene, ...]], frames: int, group: int
) -> None:
    info, scenes = made
    times, joined = share(info, scenes, frames, group)
    assert 1 <= len(times) <= frames
    assert list(times) == sorted(times)
    assert set(times) <= set(info.frame_times)  # true times
    assert len(times) % min(group, frames) == 0
    seen = counts(scenes, times)
    if joined == 0:
        assert min(seen) >= 1
        assert all(count % group == 0 for count in seen) or frames < group
        for one, other in ((a, b) for a in range(len(scenes)) for b in range(len(scenes))):
            longer = scenes[one].end - scenes[one].start >= scenes[other].end - scenes[other].start
            enough = seen[one] >= len([t for t in info.frame_times if scenes[one].start <= t < scenes[one].end])
            assert not longer or enough or seen[one] >= seen[other] - group


def test_the_longest_possible_clip_is_shared_at_once() -> None:
    info = even(60 * 60 * 25, 25.0)
    scenes = cut(info, list(range(100, 90_000, 100)), [0.5] * 899)
    times, joined = share(info, scenes, 768, 2)
    assert len(times) == 768
    assert joined == 900 - 384
    assert times[0] == pytest.approx(1.0, abs=4)
