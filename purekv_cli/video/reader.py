"""A forward cursor over a video's frames that seeks only where seeking pays: planned seek.

The decoder runs on where it stands, and seeks only when a target's keyframe has not been read yet. On long groups of
pictures this decodes a quarter of the frames that a seek for every target would. A reader that is told which frames are
wanted also skips the others that no frame refers to (half of a usual H.264 clip). Where a seek proves wrong (its first
frame comes after the target: damage, containers that land late), it starts over from an earlier keyframe. Damaged
packets are counted and passed over. Times are ticks after the clip's first frame, so that they compare exactly.
"""

from bisect import bisect_right
from collections.abc import Iterator, Set
from contextlib import contextmanager

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from purekv_cli.video.container import open_video, read_packets
from purekv_cli.video.info import VideoInfo

START_LEAD = 10.0  # s ahead of the first keyframe: surely the beginning, for containers that seek by decoding time


# Codecs whose packets say for certain whether another frame refers to them. (A layered H.265 stream may refer to what
# FFmpeg takes for unreferenced.)
SPARING = frozenset({"h264"})


@contextmanager
def open_reader(info: VideoInfo, threads: int | None, wanted: Set[int] | None = None) -> Iterator["FrameReader"]:
    """A reader at the beginning of the clip; `threads` as for `decode`. Errors: those of `open_video`.

    `wanted` (ticks) are the only frames that will be asked for; None: any may be.
    """
    with open_video(info.path) as (container, stream):
        yield FrameReader(info, container, stream, threads, wanted)


@contextmanager
def reopened(reader: "FrameReader", info: VideoInfo, threads: int | None) -> Iterator["FrameReader"]:
    """A fresh reader that skips nothing and knows the damage met so far."""
    with open_reader(info, threads) as fresh:
        fresh.damaged |= reader.damaged
        yield fresh


class FrameReader:
    """Ask `last_at` in ascending order; the other fields tell what was met on the way."""

    def __init__(
        self,
        info: VideoInfo,
        container: InputContainer,
        stream: VideoStream,
        threads: int | None = None,
        wanted: Set[int] | None = None,
    ) -> None:
        self.decoded = 0  # frames the decoder gave, kept or not
        self.damaged: set[int] = set()  # dts of packets that could not be decoded
        self.furthest = -1  # the latest frame seen
        self.ended = False  # the stream's end was reached
        self._info = info
        self._container, self._stream = container, stream
        self.threads = threads
        stream.thread_type = "SLICE" if self.threads == 1 else "AUTO"
        stream.codec_context.thread_count = self.threads or 0
        self._skipping = False  # what the decoder was told last
        self._wanted = wanted if info.codec in SPARING and not info.counted else None
        self._keyframes = [info.ticks(time) for time in info.keyframe_times]
        self._seekable = not info.counted and len(self._keyframes) > 1
        self._landed: int | None = None  # the first keyframe met after a seek
        self._group = 0  # index of the latest keyframe whose packet was read
        self._frames = self._read(from_keyframe=False)
        self._held: tuple[int, VideoFrame] | None = None  # the last frame at or before the latest target
        self._ahead: tuple[int, VideoFrame] | None = None  # the one after it

    def last_at(self, wanted: int) -> tuple[int, VideoFrame] | None:
        """The last readable frame at or before `wanted`, and its ticks; None when there is none."""
        group = bisect_right(self._keyframes, wanted) - 1
        if not self._seekable or group <= self._group:
            return self._advance(wanted)
        before, floor, step = self._held, self._group, 1
        while self._seek(group):
            found = self._advance(wanted)
            if found is not None:
                return found
            late = self._landed is None or self._landed > wanted
            if group == 0 or (group <= floor and not late):
                self._held = before
                return before
            group, step = max(group - step, 0 if group <= floor else floor), step * 2
        return self._advance(wanted)

    @property
    def sparing(self) -> bool:
        """Whether frames that nobody asked for may be missing."""
        return self._wanted is not None

    def out_of_reach(self, index: int) -> bool:
        """Whether the stream ended before anything as late as frame `index` came out of it."""
        if not self.ended:
            return False
        # The very last packet of an undamaged stream may be a field or a picture that is never shown.
        nearly = index - 1 if index > 0 and not self.damaged else index
        return self._info.ticks(self._info.frame_times[nearly]) > self.furthest

    def _seek(self, group: int) -> bool:
        lead = self._info.seek_lead
        if lead and group == 0:
            lead = self._info.ticks(START_LEAD)
        try:
            self._container.seek(self._info.origin + self._keyframes[group] - lead, stream=self._stream)
        except av.FFmpegError:
            self._seekable = False  # the position has not changed: read on from here
            return False
        self._group, self._held, self._ahead, self.ended, self._landed = group, None, None, False, None
        self._frames = self._read(from_keyframe=True)
        return True

    def _advance(self, wanted: int) -> tuple[int, VideoFrame] | None:
        while self._held is None or self._held[0] < wanted:
            if self._ahead is None:
                self._ahead = next(self._frames, None)
            if self._ahead is None or self._ahead[0] > wanted:
                break
            # After damage frames may come out of order: time never goes back.
            if self._held is None or self._ahead[0] >= self._held[0]:
                self._held = self._ahead
            self._ahead = None
        return self._held

    def _read(self, from_keyframe: bool) -> Iterator[tuple[int, VideoFrame]]:
        """Frames from where the container stands; after a seek from the first keyframe on."""
        info, second = self._info, False
        for packet in read_packets(self._container, self._stream):
            if packet.is_keyframe and packet.pts is not None:
                ticks = packet.pts - info.origin
                if from_keyframe and self._landed is None:
                    self._landed = ticks
                self._group = max(self._group, bisect_right(self._keyframes, ticks) - 1)
            if from_keyframe and self._landed is None and packet.size:
                continue
            if packet.is_corrupt:  # the probe did not count it as a frame either
                self._note_damage(packet)
                continue
            if self._wanted is not None:
                needed = packet.pts is None or packet.pts - info.origin in self._wanted
                # The packet after a wanted one may be its second field.
                skip = not (needed or second)
                if skip != self._skipping:
                    self._stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"
                    self._skipping = skip
                second = needed
            try:
                frames = packet.decode()
            except av.EOFError:
                break
            except av.FFmpegError:
                self._note_damage(packet)
                continue
            for frame in frames:
                shown_at = self._ticks_of(frame)
                self.decoded += 1
                if frame.is_corrupt:
                    self._note_damage(frame)
                elif shown_at is not None and shown_at >= 0:
                    self.furthest = max(self.furthest, shown_at)
                    yield shown_at, frame
        self.ended = True

    def _ticks_of(self, frame: VideoFrame) -> int | None:
        info = self._info
        if info.counted:
            return info.ticks(info.frame_times[self.decoded]) if self.decoded < info.frame_count else None
        return None if frame.pts is None else frame.pts - info.origin

    def _note_damage(self, unit: Packet | VideoFrame) -> None:
        # By timestamp, so that a packet met twice (a second try from an earlier keyframe) counts once.
        self.damaged.add(unit.dts if unit.dts is not None else -len(self.damaged) - 1)
