"""What is known about a clip before a frame of it is kept: the facts that sampling and decoding rest on.

Every time here is in seconds from the clip's first frame. `origin` and `time_base` are the container's own clock; they
turn such a time back into the exact timestamp of a frame (`ticks`), so that no float decides which frame is meant.
"""

from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Literal

Kind = Literal["video", "image", "images"]


@dataclass(frozen=True, slots=True)
class Scene:
    """What lies between two changes of scene, as far as it was looked at; times in s."""

    start: float  # its first frame
    last: float  # the last frame that surely belongs to it: a fade may follow
    end: float  # where the next one begins
    change: float  # how much the picture changes where it begins, 0 to 1; 0 for the first


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """One clip: a video file, a folder of images, or a single image."""

    path: Path
    kind: Kind
    container: str  # "mp4", "matroska", "mpegts"; for images the folder's or file's format
    codec: str  # "h264", "av1", "png"
    pixel_format: str  # "yuv420p10le"
    bit_depth: int  # of one component
    width: int  # px, as shown: pixels made square, then rotated
    height: int  # px, as shown
    rotation: int  # degrees counter-clockwise from the stored to the shown picture: 0, 90, 180 or 270
    duration: float  # s, from the packets: the end of the last frame
    stated_duration: float | None  # s, as the header claims; None when it claims nothing
    frame_times: tuple[float, ...]  # s, ascending: when each frame is first shown
    keyframe_times: tuple[float, ...]  # s, ascending, beginning with 0: where decoding can start
    size_bytes: int
    audio: bool
    damage: str | None = None  # "read 12.0 of 20.0 s"; None when the scan met nothing wrong
    time_base: Fraction = Fraction(1, 1_000_000)  # s per tick of the container's clock
    origin: int = 0  # ticks: the first frame's timestamp
    seek_lead: int = 0  # ticks a seek must aim ahead of a keyframe (containers that seek by decoding time)
    counted: bool = False  # timestamps are missing or wrong: the decoder's n-th frame is frame_times[n], no seeking
    scenes: tuple[Scene, ...] = ()  # of the range asked for; empty: not looked for
    source: str = ""  # what the user called it, where `path` is a passing copy: an address, "-"

    @property
    def frame_count(self) -> int:
        return len(self.frame_times)

    @property
    def average_fps(self) -> float:
        return self.frame_count / self.duration if self.duration > 0 else 0.0

    @property
    def variable_frame_rate(self) -> bool:
        """Whether frames come at uneven times, by more than the rounding of the container's clock."""
        gaps = [after - before for before, after in pairwise(self.frame_times)]
        return bool(gaps) and max(gaps) - min(gaps) > max(2.5 * float(self.time_base), 0.1 * min(gaps))

    def frame_at(self, time: float) -> int:
        """Index of the frame on show at `time` (s): the last one that begins at or before it.

        A time just short of the next frame means that frame: computed times carry float error, and containers round
        timestamps to their clock (mkv: 1 ms, so 1/15 s is written as 67 ms). Never more than a 20th of a frame.
        """
        index = max(bisect_right(self.frame_times, time) - 1, 0)
        if index + 1 < self.frame_count:
            following = self.frame_times[index + 1]
            rounding = 0.6 * float(self.time_base) + 1e-6
            if following - time <= min(rounding, (following - self.frame_times[index]) / 20):
                return index + 1
        return index

    def ticks(self, time: float) -> int:
        """One of this clip's times (s) in ticks after `origin`, exactly."""
        return round(time / float(self.time_base))

    @property
    def shortfall(self) -> str | None:
        """ "read 12.0 of 20.0 s" when the file holds clearly less than its header claims."""
        return read_of(self.duration, self.stated_duration)


def read_of(read: float, stated: float | None) -> str | None:
    """How much of a clip could be read, said only where it differs by more than headers are usually off."""
    if stated is None or stated - read <= max(0.25, 0.01 * stated):
        return None
    return f"read {read:.1f} of {stated:.1f} s"
