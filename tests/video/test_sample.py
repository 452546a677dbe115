"""`sample` plans times: right spacing, within the range, under the caps, and says why there are fewer than asked."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.errors import UsageError
from purekv_cli.video.info import VideoInfo
from purekv_cli.video.sample import SamplePlan, SampleSpec, sample


def clip(times: tuple[float, ...], duration: float, keyframes: tuple[float, ...] = (0.0,), **more: object) -> VideoInfo:
    return VideoInfo(
        **{
            "path": Path("clip.mp4"),
            "kind": "video",
            "container": "mp4",
            "codec": "h264",
            "pixel_format": "yuv420p",
            "bit_depth": 8,
            "width": 64,
            "height": 48,
            "rotation": 0,
            "duration": duration,
            "stated_duration": None,
            "frame_times": times,
            "keyframe_times": keyframes,
            "size_bytes": 1,
            "audio": False,
            **more,
        }
    )


def even(frames: int, fps: float, **more: object) -> VideoInfo:
    return clip(tuple(i / fps for i in range(frames)), frames / fps, **more)


def shown(info: VideoInfo, plan: SamplePlan) -> list[int]:
    return [info.frame_at(time) for time in plan.times]


def test_two_a_second_of_a_two_a_second_clip_is_every_frame() -> None:
    info = even(32, 2.0)
    plan = sample(info, SampleSpec(fps=2.0))
    assert plan.times == info.frame_times
    assert plan.seconds_per_frame == 0.5
    assert plan.note is None


@pytest.mark.parametrize("rate", [3.0, 7.0, 15.0, 23.976, 29.97, 30.0, 60.0])
@pytest.mark.parametrize("clock", [Fraction(1, 1000), Fraction(1, 90000)], ids=["mkv", "ts"])
def test_float_error_and_clock_rounding_never_fall_to_the_frame_before(rate: float, clock: Fraction) -> None:
    """Asked for every frame by its nominal time, the plan finds every frame, however the container rounded it."""
    times = tuple(round(i / rate / clock) * float(clock) for i in range(200))
    info = clip(times, 200 / rate, time_base=clock)
    assert shown(info, sample(info, SampleSpec(fps=rate))) == list(range(200))


def test_a_time_clearly_before_a_frame_is_the_frame_before() -> None:
    info = even(10, 10.0)
    assert info.frame_at(0.2999999) == 3
    assert info.frame_at(0.29) == 2
    assert info.frame_at(-1.0) == 0
    assert info.frame_at(99.0) == 9
    assert even(10, 10.0, time_base=Fraction(1, 10)).frame_at(0.29) == 2  # avi: a tick is a whole frame


def test_a_duration_short_by_the_clock_s_rounding_costs_no_frame() -> None:
    times = tuple(round(i / 15, 3) for i in range(60))
    plan = sample(clip(times, 3.999, time_base=Fraction(1, 1000)), SampleSpec(fps=2.0))
    assert plan.times == (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5)


def test_the_end_of_an_uneven_length_is_as_the_qwen_processors_count_it() -> None:
    plan = sample(even(163, 10.0), SampleSpec(fps=2.0))  # 16.3 s
    assert len(plan.times) == 32
    assert plan.times[-1] == 15.5


def test_a_capped_rate_is_spread_evenly_and_says_so() -> None:
    plan = sample(even(400, 10.0), SampleSpec(fps=2.0, max_frames=10))
    assert plan.times == tuple(4.0 * i for i in range(10))
    assert plan.seconds_per_frame == 4.0
    assert plan.note == "10 of 80 frames: the cap is 10 (--max-frames)"


def test_a_token_cap_counts_frames_in_pairs() -> None:
    plan = sample(even(400, 10.0), SampleSpec(), tokens_per_frame=64.0, max_tokens=64 * 7 + 63)
    assert len(plan.times) == 6
    assert plan.note == "6 of 80 frames: no more fit into 511 tokens"


def test_a_token_cap_below_one_frame_is_an_error() -> None:
    with pytest.raises(UsageError, match="not one frame of 64 tokens fits into 63"):
        sample(even(40, 10.0), SampleSpec(), tokens_per_frame=64.0, max_tokens=63)


def test_uniform_takes_exactly_what_was_asked_for_within_the_range() -> None:
    plan = sample(even(40, 10.0), SampleSpec(mode="uniform", frames=4, start=1.0, end=3.0))
    assert plan.times == (1.0, 1.5, 2.0, 2.5)
    assert plan.seconds_per_frame == 0.5


def test_keyframes_are_thinned_evenly() -> None:
    info = even(100, 10.0, keyframe_times=tuple(float(i) for i in range(10)))
    plan = sample(info, SampleSpec(mode="keyframes", max_frames=5))
    assert plan.times == (0.0, 2.0, 4.0, 6.0, 8.0)
    assert plan.seconds_per_frame == 2.0
    assert plan.note == "5 of 10 keyframes: the cap is 5 (--max-frames)"


def test_a_range_without_keyframes_gives_its_first_frame() -> None:
    plan = sample(even(100, 10.0), SampleSpec(mode="keyframes", start=4.0, end=6.0))
    assert plan.times == (4.0,)
    assert plan.note is not None
    assert "no keyframe" in plan.note


@pytest.mark.parametrize("mode", ["fps", "uniform", "keyframes"])
def test_one_frame_is_enough(mode: str) -> None:
    plan = sample(clip((0.0,), 0.04), SampleSpec(mode=mode))
    assert plan.times == (0.0,)
    assert plan.seconds_per_frame > 0


def test_more_than_the_clip_has_is_not_asked_of_it() -> None:
    plan = sample(even(10, 1.0), SampleSpec(fps=2.0))
    assert plan.times == tuple(float(i) for i in range(10))
    assert plan.seconds_per_frame == 1.0
    assert plan.note == "10 of 20 frames: the range has no more than 10"


def test_a_burst_in_an_uneven_clip_is_caught() -> None:
    """Screen recordings write frames only when something changes: a frame count must not thin out the burst."""
    info = clip((0.0, 5.0, 5.5, 6.0, 6.5, 7.0), 20.0)
    plan = sample(info, SampleSpec(fps=2.0))
    assert len(plan.times) == 40
    assert set(shown(info, plan)) == set(range(6))


class TestRange:
    def test_past_the_end_tells_the_real_length(self) -> None:
        with pytest.raises(UsageError, match="past the clip's end") as caught:
            sample(even(40, 10.0), SampleSpec(start=4.0))
        assert "4.00 s long" in caught.value.hint

    def test_past_what_a_truncated_clip_holds(self) -> None:
        with pytest.raises(UsageError) as caught:
            sample(even(120, 10.0, stated_duration=20.0), SampleSpec(start=15.0))
        assert "12.00 s long as far as it can be read (its header claims 20.00 s)" in caught.value.hint

    def test_partly_outside_is_clamped_with_a_note(self) -> None:
        plan = sample(even(40, 10.0), SampleSpec(start=3.0, end=9.0))
        assert (plan.start, plan.end) == (3.0, 4.0)
        assert plan.times == (3.0, 3.5)
        assert plan.note is not None
        assert "past the clip's end" in plan.note

    @pytest.mark.parametrize(
        "wrong",
        [
            {"start": -1.0},
            {"start": 3.0, "end": 3.0},
            {"end": 0.0},
            {"fps": 0.0},
            {"fps": float("nan")},
            {"frames": 0},
            {"max_frames": 0},
            {"end": float("nan")},
        ],
        ids=str,
    )
    def test_what_cannot_be_is_refused(self, wrong: dict[str, float]) -> None:
        with pytest.raises(UsageError):
            SampleSpec(**wrong)


@st.composite
def clips_of_any_kind(draw: st.DrawFn) -> VideoInfo:
    clock = draw(st.sampled_from([Fraction(1, 1000), Fraction(1, 90000), Fraction(1, 12288)]))
    gaps = draw(st.lists(st.integers(int(0.01 / clock), int(3 / clock)), max_size=60))
    if draw(st.booleans()):
        gaps = [gaps[0] if gaps else int(0.04 / clock)] * len(gaps)
    ticks = [0]
    for gap in gaps:
        ticks.append(ticks[-1] + gap)
    times = tuple(float(tick * clock) for tick in ticks)
    keyframes = tuple(sorted({0.0, *draw(st.lists(st.sampled_from(times), max_size=8))}))
    return clip(times, times[-1] + float((gaps or [int(0.04 / clock)])[-1] * clock), keyframes, time_base=clock)


@given(
    info=clips_of_any_kind(),
    mode=st.sampled_from(["uniform", "fps", "keyframes"]),
    fps=st.floats(0.05, 120),
    frames=st.none() | st.integers(1, 100),
    cap=st.integers(1, 50),
    where=st.tuples(st.floats(0, 0.99), st.floats(0.01, 2)),
    tokens=st.none() | st.tuples(st.floats(1, 400), st.integers(400, 8000)),
)
def test_any_plan_is_ascending_within_the_range_and_under_the_caps(
    info: VideoInfo,
    mode: str,
    fps: float,
    frames: int | None,
    cap: int,
    where: tuple[float, float],
    tokens: tuple[float, int] | None,
) -> None:
    start = info.duration * where[0]
    spec = SampleSpec(mode, fps, frames, cap, start, start + info.duration * where[1])
    plan = sample(info, spec, *(tokens or ()))
    assert 1 <= len(plan.times) <= min(cap, frames or cap)
    if tokens:
        assert len(plan.times) * tokens[0] <= tokens[1] + 1e-3
    assert list(plan.times) == sorted(plan.times)
    assert start - 1e-5 <= plan.start <= plan.times[0] + 1e-5
    assert plan.times[-1] < plan.end <= info.duration
    assert plan.seconds_per_frame > 0
    if mode != "keyframes":
        steps = [b - a for a, b in zip(plan.times, plan.times[1:], strict=False)]
        assert steps == pytest.approx([plan.seconds_per_frame] * len(steps), abs=0.003)
