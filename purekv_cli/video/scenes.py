"""Where one scene of a clip ends and the next begins, found on small pictures a few times a second.

FFmpeg's own detector (scdet) compares neighbouring frames, one decoder, and sees no fades. Here the pictures come from
`decode`, which scales inside the decoder, decodes groups of pictures side by side and survives damage. Between two
pictures counts the mean difference of their colours, over three spans: from one to the next (cuts), over two seconds
and over one (fades). It is a change of scene where it clearly exceeds what is usual just before and just after, so that
motion, which goes on, is none. A clip too long for that is judged by its keyframes, which encoders put at cuts. What is
found depends on the file and the range alone, not on the machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from purekv_cli.video.decode import OnFrame, decode
from purekv_cli.video.info import Scene, VideoInfo
from purekv_cli.video.sample import SamplePlan, SampleSpec, clamped

EVERY = 0.08  # s between pictures, at least
MOST_PIXELS = 3 * 10**10  # decoded: 18 minutes of 720p at 30 a second; what is longer is judged by its keyframes
MOST_PICTURES = 40_000  # looked at: the same
SHRINK, LEAST = 32, 16  # a picture is the frame's size divided by this, but no smaller
CUT, FADE = 0.06, 0.1  # least difference, of the range of colours; the second also where pictures are far apart
FADES = (2.0, 1.0)  # s over which pictures are compared to find fades
RATIO = 3.0  # to what is usual on either side
PEAK = 1.5  # of a cut, to the change just before and after it
AROUND = 0.5  # s on either side of a cut that tell what is usual
TELLING = 0.2  # s on either side of a fade, below which they tell nothing
FLASH = 0.3  # s: cuts closer than this belong together


@dataclass(frozen=True, slots=True)
class Change:
    """Between the picture `before` (index) and the picture `after`, with a fade between them or nothing."""

    before: int
    after: int
    size: float  # 0 to 1


def find_scenes(
    info: VideoInfo, spec: SampleSpec, on_frame: OnFrame | None = None, threads: int | None = None
) -> tuple[Scene, ...]:
    """The scenes of the range that is asked for, at least one.

    Args:
        on_frame, threads: of `decode`.

    Raises:
        UsageError: a range outside the clip. UnreadableInput: nothing of it can be decoded.
    """
    start, end, _ = clamped(info, spec)
    times = _looks(info, start, end)
    size = (max(info.height // SHRINK, LEAST), max(info.width // SHRINK, LEAST))
    seen = decode(info, SamplePlan(times, EVERY, start, end), size, on_frame, threads)
    found = changes(seen.times, seen.pixels)
    begins = [0, *(change.after for change in found)]
    lasts = [*(change.before for change in found), len(seen.times) - 1]
    ends = [*(float(seen.times[first]) for first in begins[1:]), end]
    sizes = [0.0, *(change.size for change in found)]
    return tuple(
        Scene(float(seen.times[first]), float(seen.times[last]), stop, size)
        for first, last, stop, size in zip(begins, lasts, ends, sizes, strict=True)
    )


def _looks(info: VideoInfo, start: float, end: float) -> tuple[float, ...]:
    """Times of the frames to look at: all that are far enough apart, or the keyframes."""
    first, last = info.frame_at(start), info.frame_at(end)
    if last > first and info.frame_times[last] >= end:
        last -= 1
    looks = [info.frame_times[first]]
    for time in info.frame_times[first + 1 : last + 1]:
        if time - looks[-1] >= EVERY:
            looks.append(time)
    if (last - first + 1) * info.width * info.height > MOST_PIXELS or len(looks) > MOST_PICTURES:
        return (looks[0], *(time for time in info.keyframe_times if looks[0] < time <= info.frame_times[last]))
    return tuple(looks)


def changes(times: NDArray[np.float64], pictures: NDArray[np.uint8]) -> list[Change]:
    """Changes of scene, in order, none overlapping another.

    Args:
        times: float64 [n], s, ascending.
        pictures: uint8 [n, H, W, 3].
    """
    found = _joined(times, pictures, _cuts(times, pictures))
    for span in FADES:
        found = sorted(found + _fades(times, pictures, span, found), key=lambda change: change.after)
    return found


def _cuts(times: NDArray[np.float64], pictures: NDArray[np.uint8]) -> list[Change]:
    """From one picture to the next: more than usual half a second before and after (the mean of the medians), and than
    from and to their neighbours, which in a fast fade change as much.
    """
    differs = np.array([0.0, *(_difference(pictures, i, i - 1) for i in range(1, len(times)))])
    gaps = np.diff(times, prepend=times[0])
    found = []
    for after in np.flatnonzero(differs >= np.where(gaps > AROUND, FADE, CUT)).tolist():
        begin, stop = np.searchsorted(times, [times[after] - AROUND, times[after] + AROUND])
        before, behind = differs[max(begin, 1) : after], differs[after + 1 : stop]
        usual = _mean([float(np.median(side)) for side in (before, behind) if len(side)])
        beside = max([*before[-1:], *behind[:1]], default=0.0)
        if differs[after] >= max(RATIO * usual, PEAK * beside):
            found.append(Change(after - 1, after, float(differs[after])))
    return found


def _fades(
    times: NDArray[np.float64], pictures: NDArray[np.uint8], span: float, found: Sequence[Change]
) -> list[Change]:
    """From one picture to that `span` later, where none of `found` lies: three times the change of half of it on both
    sides. Even motion changes twice as much in twice the time.
    """
    earlier = np.searchsorted(times, times - span, "right") - 1
    changed = [
        Change(before, after, _difference(pictures, after, before))
        for after, before in enumerate(earlier.tolist())
        if before >= 0 and times[after] - times[before] <= span + AROUND
    ]
    fades: list[Change] = []
    within = np.zeros(len(times), np.bool_)  # whether a change lies between a picture and the one before it
    for change in found:
        within[change.before + 1 : change.after + 1] = True
    for change in sorted(changed, key=lambda change: (-change.size, change.after)):
        if change.size < FADE:
            break
        before, after = change.before, change.after
        if within[before + 1 : after + 1].any():
            continue
        begin, stop = np.searchsorted(times, [times[before] - span / 2, times[after] + span / 2]).tolist()
        stop = min(stop, len(times) - 1)
        while begin < before and within[begin + 1 : before + 1].any():
            begin += 1
        while stop > after and within[after + 1 : stop + 1].any():
            stop -= 1
        sides = [
            _difference(pictures, one, other) * span / 2 / (times[other] - times[one])
            for one, other in ((begin, before), (after, stop))
            if times[other] - times[one] >= TELLING
        ]
        if sides and change.size >= RATIO * _mean(sides):
            change = _trimmed(pictures, change)
            within[change.before + 1 : change.after + 1] = True
            fades.append(change)
    return fades


def _trimmed(pictures: NDArray[np.uint8], change: Change) -> Change:
    """Without what still looks like the picture before, or already like the one after."""
    before, after = change.before, change.after
    while before + 1 < after and _difference(pictures, before + 1, change.before) < CUT / 2:
        before += 1
    while after - 1 > before and _difference(pictures, after - 1, change.after) < CUT / 2:
        after -= 1
    return Change(before, after, change.size)


def _difference(pictures: NDArray[np.uint8], one: int, other: int) -> float:
    """Mean, 0 to 1."""
    return float(np.abs(pictures[one].astype(np.int16) - pictures[other]).mean()) / 255


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _joined(times: NDArray[np.float64], pictures: NDArray[np.uint8], found: Sequence[Change]) -> list[Change]:
    """Cuts that follow each other at once are a short fade, or a flash: then none, for the picture is as before."""
    runs: list[list[Change]] = []
    for change in found:
        now = times[change.after]
        if runs and now - times[runs[-1][-1].after] < FLASH and now - times[runs[-1][0].before] <= min(FADES):
            runs[-1].append(change)
        else:
            runs.append([change])
    changes = []
    for run in runs:
        before, after = run[0].before, run[-1].after
        size = _difference(pictures, before, after)
        if size >= CUT:
            changes.append(Change(before, after, size))
    return changes
