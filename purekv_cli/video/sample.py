"""Choose the times at which a clip is looked at. Pure functions: no file is touched.

`fps` takes a frame every 1 / fps seconds from the start, as the Qwen processors do; when that is more than the caps on
frames or tokens allow, the frames are spread evenly instead. `uniform` spreads a number of frames evenly; `middles`
takes the middle frame of so many equal parts, one frame several times where there are fewer, as VideoLLaMA2 does;
`keyframes` takes the encoder's keyframes, thinned evenly (cheap to decode, uneven in time); `scene` shares the frames
out among the scenes. The spacing is part of the answer: Qwen2.5-VL's positions count real seconds per temporal grid
(2 * seconds_per_frame), or where the times are uneven from each grid step to the next.
"""

import math
from dataclasses import dataclass
from typing import Literal

from purekv_cli.errors import UsageError
from purekv_cli.video.info import VideoInfo
from purekv_cli.video.share import share

Mode = Literal["uniform", "fps", "keyframes", "middles", "scene"]
MAX_FRAMES = 768  # the Qwen2.5-VL processor's own limit
SLACK = 1e-6  # s, frames: what float arithmetic may be off by


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """What was asked for. Errors: UsageError for values that cannot be."""

    mode: Mode = "fps"
    fps: float = 2.0
    frames: int | None = None  # how many: exactly in uniform mode, at most in the others
    max_frames: int = MAX_FRAMES
    start: float | None = None  # s; None: the clip's beginning
    end: float | None = None  # s; None: its end
    group: int = 1  # frames that the model takes as one: in scene mode no scene gets a part of them

    def __post_init__(self) -> None:
        if not (self.fps > 0 and math.isfinite(self.fps)):
            raise UsageError(f"{self.fps} frames a second cannot be", "Give --fps above 0, such as 2.")
        if self.frames is not None and self.frames < 1:
            raise UsageError(f"{self.frames} frames cannot be", "Give --frames of at least 1.")
        if self.max_frames < 1:
            raise UsageError(f"at most {self.max_frames} frames cannot be", "Give --max-frames of at least 1.")
        if self.start is not None and not (self.start >= 0 and math.isfinite(self.start)):
            raise UsageError(f"--start {self.start:g} s cannot be", "Give --start in seconds from the beginning.")
        if self.end is not None and math.isnan(self.end):
            raise UsageError("--end is not a number", "Give --end in seconds from the beginning.")
        if self.end is not None and self.end <= (self.start or 0.0):
            raise UsageError(
                f"the range from {self.start or 0.0:g} s to {self.end:g} s is empty", "Give --end after --start."
            )


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """The times to look at, ascending."""

    times: tuple[float, ...]  # s from the clip's first frame
    seconds_per_frame: float  # the spacing; the mean one where it is uneven
    start: float  # s, after clamping to the clip
    end: float  # s, after clamping to the clip
    note: str | None = None  # why this is less than asked for; None when it is not
    even: bool = True  # whether times are so far apart; otherwise only they themselves tell


def sample(
    info: VideoInfo, spec: SampleSpec, tokens_per_frame: float | None = None, max_tokens: int | None = None
) -> SamplePlan:
    """The plan for one clip: at least one time, at most what the caps on frames and tokens allow.

    `tokens_per_frame` is a model's language tokens for one frame (half a temporal grid's, where frames go in pairs).
    Mode `scene` needs `info.scenes` of the same range (`find_scenes`); a clip of one scene is sampled evenly.
    Errors: UsageError for a range outside the clip or a token cap that holds not one frame.
    """
    start, end, notes = clamped(info, spec)
    cap, why = _cap(spec, tokens_per_frame, max_tokens)
    if spec.mode == "keyframes":
        times, spacing = _keyframes(info, start, end, cap)
        there = len([time for time in info.keyframe_times if start - SLACK <= time < end])
        if there == 0:
            notes.append("no keyframe in the range: its first frame instead")
        elif there > len(times):
            notes.append(f"{len(times)} of {there} keyframes: {why}")
        return SamplePlan(times, spacing, start, end, "; ".join(notes) or None, even=False)

    there = _frames_in(info, start, end)
    if spec.mode == "middles" and spec.frames is not None:
        count, first = min(spec.frames, cap), info.frame_at(start)
        if count < spec.frames:
            notes.append(f"{count} of {spec.frames} frames: {why}")
        times = tuple(info.frame_times[first + index] for index in middles(there, count))
        return SamplePlan(times, (end - start) / count, start, end, "; ".join(notes) or None)
    if spec.mode == "fps" or (spec.mode == "scene" and spec.frames is None):
        # Durations carry the rounding of the container's clock: 3.999 s in mkv may be 4 s, and 8 frames at 2 a second.
        rounding = min(2 * float(info.time_base) * spec.fps, 0.05)
        wanted = max(math.floor((end - start) * spec.fps + rounding + SLACK), 1)
    else:
        wanted = spec.frames if spec.frames is not None else min(spec.max_frames, there)
    count = min(wanted, cap)
    if spec.mode == "scene" and len(info.scenes) > 1:
        chosen, left = share(info, info.scenes, count, spec.group)
        times = tuple(max(time, start) for time in chosen)
        if count < wanted:
            notes.append(f"{count} of {wanted} frames: {why}")
        if left:
            notes.append(f"{left} of {len(info.scenes)} scenes are seen with the one before: more do not fit")
        return SamplePlan(times, (end - start) / len(times), start, end, "; ".join(notes) or None, even=False)
    if spec.mode == "scene":
        notes.append("no change of scene was found: frames are spread evenly")
    # More than there are would only show frames twice. Not so where frames come unevenly: a long still stretch is worth
    # few targets and a burst many, and only the spacing that was asked for catches the burst.
    if there < count and (there == 1 or not info.variable_frame_rate):
        count, why = there, f"the range has no more than {there}"
    if count < wanted:
        notes.append(f"{count} of {wanted} frames: {why}")
    even = spec.mode == "uniform" or count < wanted or (spec.mode == "scene" and spec.frames is not None)
    spacing = (end - start) / count if even else 1 / spec.fps
    if even:
        times = tuple(_snap(info, start + (end - start) * i / count) for i in range(count))
    else:
        times = tuple(_snap(info, start + i / spec.fps) for i in range(count))
    return SamplePlan(times, spacing, start, end, "; ".join(notes) or None)


def middles(total: int, count: int) -> list[int]:
    """Indices of the frames in the middles of `count` equal parts of `total` frames; VideoLLaMA2's rounding."""
    part = (total - 1) / count
    return [round((part * i + part * (i + 1)) / 2 + 1e-6) for i in range(count)]


def clamped(info: VideoInfo, spec: SampleSpec) -> tuple[float, float, list[str]]:
    """The asked range within the clip, and what had to give."""
    length = f"the clip is {info.duration:.2f} s long"
    if info.shortfall:
        length += f" as far as it can be read (its header claims {info.stated_duration:.2f} s)"
    start = spec.start or 0.0
    if start >= info.duration:
        raise UsageError(f"--start {start:g} s is past the clip's end", f"Give a range within it: {length}.")
    if spec.end is None or spec.end <= info.duration + SLACK:
        return start, min(spec.end or info.duration, info.duration), []
    return start, info.duration, [f"--end {spec.end:g} s is past the clip's end: {length}"]


def _cap(spec: SampleSpec, tokens_per_frame: float | None, max_tokens: int | None) -> tuple[int, str]:
    """The most frames allowed, and which cap says so."""
    cap, why = spec.max_frames, f"the cap is {spec.max_frames} (--max-frames)"
    if spec.frames is not None and spec.mode != "uniform" and spec.frames < cap:
        cap, why = spec.frames, f"{spec.frames} were asked for (--frames)"
    if max_tokens is not None and tokens_per_frame:
        fit = math.floor(max_tokens / tokens_per_frame + SLACK)
        if fit < 1:
            raise UsageError(
                f"not one frame of {tokens_per_frame:g} tokens fits into {max_tokens} tokens",
                "Allow more tokens, or make frames smaller with --max-pixels.",
            )
        # Models that take frames in pairs repeat an odd last one, which costs a whole frame more.
        fit -= fit % 2 if fit > 1 else 0
        if fit < cap:
            cap, why = fit, f"no more fit into {max_tokens} tokens"
    return cap, why


def _frames_in(info: VideoInfo, start: float, end: float) -> int:
    """How many frames are on show at some moment of the range (its end excluded)."""
    first, last = info.frame_at(start), info.frame_at(end)
    if last > first and info.frame_times[last] >= end - SLACK:
        last -= 1
    return last - first + 1


def _keyframes(info: VideoInfo, start: float, end: float, cap: int) -> tuple[tuple[float, ...], float]:
    there = [time for time in info.keyframe_times if start - SLACK <= time < end]
    if not there:
        return (_snap(info, start),), end - start
    count = min(len(there), cap)
    times = tuple(there[i * len(there) // count] for i in range(count))
    spacing = (times[-1] - times[0]) / (count - 1) if count > 1 else end - start
    return times, spacing


def _snap(info: VideoInfo, time: float) -> float:
    """A time a rounding error short of a frame becomes that frame's own time."""
    return max(time, info.frame_times[info.frame_at(time)])
