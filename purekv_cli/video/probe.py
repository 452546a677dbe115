"""Find out what a clip is: one pass over its packets, decoding only up to the first frame.

Headers are not trusted. Frame counts and durations are missing in mkv, webm and ts, a truncated mp4 still claims its
full length, and with a variable frame rate the average says little: so timestamps, keyframes and the duration come from
the packets themselves. The first decoded frame proves that there is a picture and gives the rotation and true format.
"""

import re
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import median

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from purekv_cli.errors import UnreadableInput
from purekv_cli.video.container import open_video, read_packets
from purekv_cli.video.images import IMAGE_SUFFIXES, probe_images
from purekv_cli.video.info import VideoInfo, read_of
from purekv_cli.video.source import Local

__all__ = ["VideoInfo", "probe"]

SEEKS_BY_DTS = frozenset({"mpegts", "mpeg"})
NO_STATED_DURATION = frozenset({"mpegts", "mpeg", "gif"})  # FFmpeg measures it from the packets, as we do
WRONG_PTS = frozenset({"avi"})  # holds no presentation times: those of codecs with B-frames are guesses


def probe(video: Path | Local, images_fps: float = 1.0) -> VideoInfo:
    """Facts about a video file, a folder of images (at `images_fps`) or a single image.

    Errors: UnreadableInput, with what is wrong and what to do about it.
    """
    if isinstance(video, Local):
        return replace(probe(video.path, images_fps), source=video.name)
    path = video
    if not path.exists():
        hint = "Check the path; quote it when it holds spaces."
        if re.match(r"\w+:/", str(path)):
            hint = "Download it first; ask, chat, explain, probe and batch read http(s) addresses themselves."
        raise UnreadableInput(f"{path} does not exist", hint)
    if path.is_dir():
        return probe_images(path, images_fps)
    if path.stat().st_size == 0 and path.is_file():
        raise UnreadableInput(f"{path.name} is empty (0 bytes)", "Copy or record it again: nothing is in it.")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return probe_images(path, images_fps)
    with open_video(path) as (container, stream):
        return _probe_video(path, container, stream)


@dataclass(slots=True)
class _Scan:
    """What one pass over the packets found; times in ticks, in decoding order."""

    pts: list[int | None] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    keyframes: list[int] = field(default_factory=list)  # indices into pts
    leads: list[int] = field(default_factory=list)  # pts - dts of the keyframes
    discarded: int = 0  # packets that are decoded but not shown (edit lists)
    damaged: int = 0
    first_frame: VideoFrame | None = None


def _scan(container: InputContainer, stream: VideoStream) -> _Scan:
    found = _Scan()
    stream.codec_context.thread_count = 1  # the first frame at once, not after a queue per thread
    for packet in read_packets(container, stream):
        if packet.is_corrupt:
            found.damaged += 1
            continue
        if found.first_frame is None:
            try:
                frames = packet.decode()
            except av.FFmpegError:
                frames = []  # counted when it is decoded in earnest
            found.first_frame = next(iter(frames), None)
        if not packet.size:
            continue
        if packet.is_discard:
            found.discarded += 1
            continue
        if packet.is_keyframe:
            found.keyframes.append(len(found.pts))
            if packet.pts is not None and packet.dts is not None:
                found.leads.append(packet.pts - packet.dts)
        found.pts.append(packet.pts)
        found.durations.append(packet.duration or 0)
    return found


def _probe_video(path: Path, container: InputContainer, stream: VideoStream) -> VideoInfo:
    found = _scan(container, stream)
    frame = found.first_frame
    if not found.pts or frame is None:
        raise UnreadableInput(
            f"no frame of {path.name} could be decoded",
            "The file is damaged or holds no pictures; check that it plays, or convert it again from its source.",
        )
    formats = container.format.name.split(",")
    suffix = path.suffix.lower().lstrip(".")
    context = stream.codec_context
    base = stream.time_base
    if not base:
        raise UnreadableInput(
            f"{path.name} has no clock for its frames", "Remux it: ffmpeg -i INPUT -c copy OUTPUT.mp4"
        )
    counted = any(pts is None for pts in found.pts) or (
        formats[0] in WRONG_PTS and bool(context.has_b_frames) and found.pts == sorted(p or 0 for p in found.pts)
    )
    shown, keyframes, last_duration = _timeline(path, stream, base, found)
    origin = shown[0]
    times = tuple((ticks - origin) * base.numerator / base.denominator for ticks in shown)
    duration = (shown[-1] - origin + last_duration) * base.numerator / base.denominator
    stated = None if formats[0] in NO_STATED_DURATION else _stated_duration(container, stream)
    problems = [read_of(duration, stated)]
    if found.damaged:
        problems.append(f"{found.damaged} damaged packet{'s' * (found.damaged > 1)}")
    rotation = round(frame.rotation / 90) % 4 * 90
    width, height = _square_pixels(frame, stream)
    return VideoInfo(
        path=path,
        kind="video",
        container=suffix if suffix in formats else formats[0],
        codec=context.codec.canonical_name,
        pixel_format=frame.format.name,
        bit_depth=frame.format.components[0].bits,
        width=height if rotation % 180 else width,
        height=width if rotation % 180 else height,
        rotation=rotation,
        duration=duration,
        stated_duration=stated,
        frame_times=times,
        keyframe_times=tuple((ticks - origin) * base.numerator / base.denominator for ticks in keyframes),
        size_bytes=path.stat().st_size,
        audio=bool(container.streams.audio),
        damage="; ".join(problem for problem in problems if problem) or None,
        time_base=base,
        origin=origin,
        seek_lead=max(found.leads, default=0) if formats[0] in SEEKS_BY_DTS else 0,
        counted=counted,
    )


def _timeline(path: Path, stream: VideoStream, base: Fraction, found: _Scan) -> tuple[list[int], list[int], int]:
    """Ticks of the frames as shown, of the keyframes, and the last frame's duration.

    Frames before the first keyframe, in either order, cannot be decoded (a stream that was cut open): the clip begins
    with the keyframe. Streams without timestamps (raw H.264) get them from the packets' durations.
    """
    if any(pts is None for pts in found.pts):
        step = _usual_duration(stream, base, found)
        shown = [index * step for index in range(len(found.pts))]
        return shown, [0], step
    pts = [ticks for ticks in found.pts if ticks is not None]
    keyframes = sorted({pts[index] for index in found.keyframes}) or [min(pts)]
    # With an edit list the keyframe itself may be hidden: then what is shown begins inside its group of pictures.
    begin = min(pts) if found.discarded else keyframes[0]
    shown = sorted({ticks for ticks in pts if ticks >= begin})
    if len(shown) == 1 < len(pts):
        raise UnreadableInput(
            f"{path.name} lasts 0 s: all of its {len(pts)} frames carry the same timestamp",
            "Give it timestamps: ffmpeg -i INPUT -vf setpts=N/25/TB OUTPUT.mp4",
        )
    last = found.durations[pts.index(shown[-1])] or (
        round(median(after - before for before, after in pairwise(shown)))
        if len(shown) > 1
        else _usual_duration(stream, base, found)
    )
    if keyframes[0] > begin:
        keyframes.insert(0, begin)
    return shown, keyframes, last


def _usual_duration(stream: VideoStream, base: Fraction, found: _Scan) -> int:
    """Ticks a frame is shown for, where timestamps do not tell: by packets, else by the stated rate, else 1/25 s."""
    stated = [duration for duration in found.durations if duration > 0]
    if stated:
        return round(median(stated))
    return max(round(1 / ((stream.average_rate or 25) * base)), 1)


def _stated_duration(container: InputContainer, stream: VideoStream) -> float | None:
    """Seconds of video that the headers claim; None when they do not say."""
    tag = stream.metadata.get("DURATION", "")  # matroska: 00:00:20.000000000
    if tag.count(":") == 2:
        hours, minutes, seconds = tag.split(":")
        try:
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds) or None
        except ValueError:
            return None
    if stream.frames and stream.average_rate and container.format.name == "avi":
        return float(stream.frames / stream.average_rate)  # its duration field is FFmpeg's guess from the file size
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if container.duration and not container.streams.audio:
        return float(container.duration / av.time_base)
    return None


def _square_pixels(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """Width and height in square pixels, before rotation; absurd aspect ratios are taken for mistakes."""
    aspect = stream.sample_aspect_ratio or 1
    if not 0.1 < aspect < 10:
        aspect = 1
    return max(round(frame.width * aspect), 1), frame.height
