"""Decode the frames of a plan, and as few others as possible.

Planned seek: targets are taken in ascending order; the decoder runs on where it stands, and seeks only when a target's
keyframe has not been read yet. For each target the last frame at or before it is kept (never simply the first one after
a seek), scaled inside the decoder's own colour conversion, and turned upright. On long groups of pictures this decodes
a quarter of the frames that a seek for every target would. Where a seek proves wrong (its first frame comes after the
target: damage, containers that land late), it starts over from an earlier keyframe.
"""

import os
import time as clock
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from purekv_cli.errors import OutOfResources, UnreadableInput
from purekv_cli.video.container import open_video, read_packets
from purekv_cli.video.frames import Frames
from purekv_cli.video.images import READ_ERRORS, list_images, read_image
from purekv_cli.video.info import VideoInfo, read_of
from purekv_cli.video.sample import SamplePlan

OnFrame = Callable[[int, int], None]


def decode(
    info: VideoInfo,
    plan: SamplePlan,
    size: tuple[int, int] | None = None,
    on_frame: OnFrame | None = None,
    threads: int | None = None,
) -> Frames:
    """The frames on show at the plan's times, resized (bicubic) to `size` (height, width as shown) if given.

    `on_frame(done, total)` is called after each. `threads` None lets FFmpeg choose; give 1 to each of many workers.
    Targets beyond what a damaged clip still gives are dropped, and `Frames.damage` says so.
    Errors: UnreadableInput when nothing can be read, OutOfResources when the frames cannot fit into memory.
    """
    began = clock.perf_counter()
    height, width = size or (info.height, info.width)
    _check_memory(len(plan.times), height, width)
    pixels = np.empty((len(plan.times), height, width, 3), np.uint8)
    if info.kind == "video":
        kept, times, damage = _decode_video(info, plan, pixels, on_frame, threads)
    else:
        kept, times, damage = _decode_images(info, plan, pixels, on_frame)
    if not kept:
        raise UnreadableInput(
            f"no frame of {info.path.name} could be decoded at the times asked for",
            "The file is damaged there: choose another range, or convert it again from its source.",
        )
    shown = np.asarray(times, np.float64)
    return Frames(
        pixels=pixels[: len(kept)],
        times=shown,
        targets=np.maximum(np.asarray([plan.times[i] for i in kept], np.float64), shown),
        seconds_per_frame=plan.seconds_per_frame,
        decode_seconds=clock.perf_counter() - began,
        damage=damage,
    )


def _decode_video(
    info: VideoInfo, plan: SamplePlan, pixels: NDArray[np.uint8], on_frame: OnFrame | None, threads: int | None
) -> tuple[list[int], list[float], str | None]:
    """Fill `pixels` from the front; returns the targets kept (indices), their frames' times, and the damage."""
    total = len(plan.times)
    turned = info.rotation % 180 != 0
    stored_size = (pixels.shape[2], pixels.shape[1]) if turned else (pixels.shape[1], pixels.shape[2])
    kept: list[int] = []
    times: list[float] = []
    stand_ins = 0
    with open_video(info.path) as (container, stream):
        reader = FrameReader(info, container, stream, threads)
        previous = -1
        for target, time in enumerate(plan.times):
            index = info.frame_at(time)
            wanted = info.ticks(info.frame_times[index])
            found = reader.last_at(wanted)
            if found is None:
                continue
            ticks, frame = found
            if reader.ended and ticks < wanted and wanted > reader.furthest:
                break  # beyond what can be read: an older frame would be a lie about this time
            # One frame less is no damage: some streams carry packets that are never shown, or fields apart.
            stand_ins += index > 1 and ticks < info.ticks(info.frame_times[index - 1])
            slot = len(kept)
            if ticks == previous:
                pixels[slot] = pixels[slot - 1]
            else:
                pixels[slot] = np.rot90(_to_rgb(frame, stored_size), k=info.rotation // 90)
            previous = ticks
            kept.append(target)
            times.append(ticks * info.time_base.numerator / info.time_base.denominator)
            if on_frame is not None:
                on_frame(target + 1, total)
    return kept, times, _video_damage(info, reader, plan, kept, stand_ins)


class FrameReader:
    """A forward cursor over a video's frames; times are ticks after the clip's first frame."""

    def __init__(
        self, info: VideoInfo, container: InputContainer, stream: VideoStream, threads: int | None = None
    ) -> None:
        self.decoded = 0  # frames the decoder gave, kept or not
        self.damaged: set[int] = set()  # dts of packets that could not be decoded
        self.furthest = -1  # the latest frame seen
        self.ended = False  # the stream's end was reached
        self._info = info
        self._container, self._stream = container, stream
        # A known damaged clip gets one thread: with more, an error at the end takes the queued frames with it.
        count = 1 if info.damage else threads
        stream.thread_type = "SLICE" if count == 1 else "AUTO"
        stream.codec_context.thread_count = count or 0
        self._keyframes = [info.ticks(time) for time in info.keyframe_times]
        self._seekable = not info.counted and len(self._keyframes) > 1
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
        while True:
            if not self._seek(group):
                return self._advance(wanted)
            found = self._advance(wanted)
            if found is not None:
                return found
            if group == floor:
                self._held = before
                return before
            group, step = max(group - step, floor), step * 2

    def _seek(self, group: int) -> bool:
        aim = self._info.origin + self._keyframes[group] - self._info.seek_lead
        try:
            self._container.seek(aim, stream=self._stream)
        except av.FFmpegError:
            self._seekable = False  # the position has not changed: read on from here
            return False
        self._group, self._held, self._ahead, self.ended = group, None, None, False
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
        """Frames from where the container stands; after a seek from the first keyframe on.

        What comes out earlier than that keyframe (the leading frames of an open group) lacks its references.
        """
        info = self._info
        begin: int | None = None if from_keyframe else 0
        for packet in read_packets(self._container, self._stream):
            if packet.is_keyframe and packet.pts is not None:
                ticks = packet.pts - info.origin
                begin = ticks if begin is None else begin
                self._group = max(self._group, bisect_right(self._keyframes, ticks) - 1)
            if begin is None and packet.size:
                continue
            if packet.is_corrupt:
                self._note_damage(packet)
                continue
            try:
                frames = packet.decode()
            except av.EOFError:
                break
            except av.FFmpegError:
                self._note_damage(packet)
                continue
            for frame in frames:
                ticks_of = self._ticks_of(frame)
                self.decoded += 1
                if ticks_of is None or ticks_of < (begin or 0) or frame.is_corrupt:
                    if frame.is_corrupt:
                        self._note_damage(frame)
                    continue
                self.furthest = max(self.furthest, ticks_of)
                yield ticks_of, frame
        self.ended = True

    def _ticks_of(self, frame: VideoFrame) -> int | None:
        info = self._info
        if info.counted:
            return info.ticks(info.frame_times[self.decoded]) if self.decoded < info.frame_count else None
        return None if frame.pts is None else frame.pts - info.origin

    def _note_damage(self, unit: av.Packet | VideoFrame) -> None:
        # By timestamp, so that a packet met twice (a second try from an earlier keyframe) counts once.
        self.damaged.add(unit.dts if unit.dts is not None else -len(self.damaged) - 1)


def _to_rgb(frame: VideoFrame, size: tuple[int, int]) -> NDArray[np.uint8]:
    """[H, W, 3] of any pixel format, scaled to `size` (height, width as stored)."""
    rgb = frame.reformat(width=size[1], height=size[0], format="rgb24", interpolation="BICUBIC")
    return np.asarray(rgb.to_ndarray(), np.uint8)


def _video_damage(
    info: VideoInfo, reader: FrameReader, plan: SamplePlan, kept: list[int], stand_ins: int
) -> str | None:
    parts = [info.shortfall]
    if kept and kept[-1] + 1 < len(plan.times):
        end = reader.furthest * info.time_base.numerator / info.time_base.denominator
        following = info.frame_at(end) + 1
        end = info.frame_times[following] if following < info.frame_count else info.duration
        whole = max(info.duration, info.stated_duration or 0.0)
        parts[0] = read_of(end, whole) or f"read {end:.2f} of {whole:.2f} s"
    if kept and kept[0] > 0:
        parts.append(f"nothing readable before {plan.times[kept[0]]:.1f} s")
    if reader.damaged:
        parts.append(f"skipped {len(reader.damaged)} damaged packet{'s' * (len(reader.damaged) > 1)}")
    if stand_ins:
        parts.append(f"{stand_ins} of {len(kept)} frames missing, earlier ones stand in")
    return "; ".join(part for part in parts if part) or None


def _decode_images(
    info: VideoInfo, plan: SamplePlan, pixels: NDArray[np.uint8], on_frame: OnFrame | None
) -> tuple[list[int], list[float], str | None]:
    """As `_decode_video`, for images: an unreadable one is left out."""
    files: list[Path] = list_images(info.path) if info.kind == "images" else [info.path]
    kept: list[int] = []
    times: list[float] = []
    unreadable: set[Path] = set()
    for target, time in enumerate(plan.times):
        index = info.frame_at(time)
        file = files[min(index, len(files) - 1)]
        try:
            pixels[len(kept)] = read_image(file, (pixels.shape[1], pixels.shape[2]))
        except READ_ERRORS:
            unreadable.add(file)
            continue
        kept.append(target)
        times.append(info.frame_times[index])
        if on_frame is not None:
            on_frame(target + 1, len(plan.times))
    many = "s" * (len(unreadable) > 1)
    return kept, times, f"skipped {len(unreadable)} unreadable image{many}" if unreadable else None


def _check_memory(count: int, height: int, width: int) -> None:
    need, free = count * height * width * 3, available_memory()
    if free is not None and need > free:
        raise OutOfResources(
            f"{count} frames of {width} x {height} need {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free",
            "Ask for fewer frames (--max-frames) or smaller ones (--max-pixels).",
        )


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
