"""Small test clips, made with PyAV, in which every frame shows its own index.

A frame is a grid of 4 x 3 black or white cells. The top left cell is white and the other corners are black, so that a
rotated or mirrored picture is noticed; the eight cells between them hold the index (6 bits) and a checksum (2 bits).
The cells survive lossy coding, scaling and rotation, so a test can tell by pixel content which frame it was given.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from numpy.typing import NDArray
from PIL import Image

os.environ.setdefault("SVT_LOG", "1")  # else the AV1 encoder prints its settings to stderr

ROWS, COLUMNS = 3, 4
CORNERS = {(0, 0): 1, (0, 3): 0, (2, 0): 0, (2, 3): 0}
BIT_CELLS = [(r, c) for r in range(ROWS) for c in range(COLUMNS) if (r, c) not in CORNERS]
INDEX_BITS = 6
MAX_FRAMES = 2**INDEX_BITS


def _bits(index: int) -> list[int]:
    bits = [index >> k & 1 for k in range(INDEX_BITS)]
    check = (sum(bits) + 1) % 4
    return [*bits, check & 1, check >> 1]


def picture(index: int, height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """The upright frame [H, W, 3] that shows `index`."""
    cells = np.zeros((ROWS, COLUMNS), np.uint8)
    for cell, value in CORNERS.items():
        cells[cell] = value
    for cell, value in zip(BIT_CELLS, _bits(index), strict=True):
        cells[cell] = value
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    grey = np.where(cells[rows][:, columns] > 0, 225, 30).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def read_index(image: NDArray[np.uint8]) -> int:
    """The index that an upright picture [H, W, 3] shows; ValueError when it shows none."""
    height, width = image.shape[:2]
    cells: dict[tuple[int, int], int] = {}
    for r in range(ROWS):
        for c in range(COLUMNS):
            top, left = (r * height) // ROWS, (c * width) // COLUMNS
            high, wide = height // ROWS, width // COLUMNS
            middle = image[top + high // 4 : top + max(high * 3 // 4, high // 4 + 1)]
            middle = middle[:, left + wide // 4 : left + max(wide * 3 // 4, wide // 4 + 1)]
            cells[r, c] = int(middle.mean() > 128)
    bits = [cells[cell] for cell in BIT_CELLS]
    index = sum(bit << k for k, bit in enumerate(bits[:INDEX_BITS]))
    if any(cells[cell] != value for cell, value in CORNERS.items()) or bits != _bits(index):
        raise ValueError(f"the picture shows no frame index: {cells}")
    return index


def read_indices(images: Iterable[NDArray[np.uint8]]) -> list[int]:
    return [read_index(image) for image in images]


@dataclass(frozen=True)
class Clip:
    """A clip on disk and what is true of it."""

    path: Path
    times: tuple[float, ...]  # s: when each frame begins; frame i shows index i
    duration: float  # s

    def index_at(self, time: float) -> int:
        """The frame on show at `time`, by the plain definition (1 ms is the rounding of mkv's clock)."""
        return max(i for i, begins in enumerate(self.times) if begins <= time + 1e-3)


X264 = {"preset": "veryfast"}
X265 = {"preset": "ultrafast", "x265-params": "log-level=error"}
VP9 = {"cpu-used": "8", "deadline": "realtime"}
AV1 = {"preset": "8", "crf": "20", "svtav1-params": "lp=1"}
OPEN_GOP = {"preset": "veryfast", "x264-params": "open-gop=1:b-adapt=0"}
CLOCKS = {".gif": Fraction(1, 100), ".mkv": Fraction(1, 1000), ".webm": Fraction(1, 1000)}  # s; timestamps are rounded
VARIABLE = (0, 1, 2, 7, 8, 9, 20, 21, 22, 23, 40, 41, 47)


@dataclass(frozen=True)
class Recipe:
    """How to encode a clip; the defaults give a plain H.264 mp4 of 4 s, keyframes a second apart."""

    name: str = "plain.mp4"
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=lambda: X264)  # encoder's
    pixel_format: str = "yuv420p"
    frames: int = 48
    fps: int = 12
    ticks: Sequence[int] | None = None  # presentation time of each frame in 1/fps, for variable frame rate
    gop: int = 12
    b_frames: int = 0
    size: tuple[int, int] = (96, 128)  # height, width as shown
    rotation: int = 0  # degrees the player turns the stored picture counter-clockwise
    sample_aspect: Fraction | None = None
    audio: bool = False
    muxer: dict[str, str] = field(default_factory=dict)


GOOD_CLIPS = [
    Recipe(),
    Recipe("b_frames.mov", b_frames=2, gop=60),
    Recipe("b_frames.mkv", b_frames=2),
    Recipe("open_gop.mp4", options=OPEN_GOP, b_frames=2),
    Recipe("open_gop.mkv", options=OPEN_GOP, b_frames=2),
    Recipe("offset.ts", b_frames=2, muxer={"output_ts_offset": "5"}),
    Recipe("sound.mp4", audio=True),
    Recipe("sound.ts", audio=True, b_frames=2),
    Recipe("mpeg2.ts", "mpeg2video", {}, frames=60, fps=25, b_frames=2),
    Recipe("mpeg4.avi", "mpeg4", {}),
    Recipe("mpeg4_b_frames.avi", "mpeg4", {}, b_frames=2),
    Recipe("h264_b_frames.avi", b_frames=2),  # avi holds no presentation times
    Recipe("raw.264", b_frames=2),  # no timestamps at all
    Recipe("vp9.webm", "libvpx-vp9", VP9),
    Recipe("av1.webm", "libsvtav1", AV1),
    Recipe("animated.gif", "gif", {}, "rgb8"),
    Recipe("h265.mp4", "libx265", X265, b_frames=2),
    Recipe("h265_10bit.mkv", "libx265", X265, "yuv420p10le"),
    Recipe("h264_10bit.mp4", "libx264", X264, "yuv420p10le"),
    Recipe("variable.mp4", ticks=VARIABLE, gop=4),
    Recipe("variable.mkv", ticks=VARIABLE, gop=4, b_frames=2),
    Recipe("rotated_90.mp4", rotation=90),
    Recipe("rotated_180.mov", rotation=180, b_frames=2),
    Recipe("rotated_270.mp4", rotation=270),
    Recipe("wide_pixels.mp4", sample_aspect=Fraction(2, 1)),
    Recipe("odd_size.webm", "libvpx-vp9", VP9, size=(99, 131)),
    Recipe("ntsc.mkv", frames=60, fps=15, gop=7),  # 1/15 s is no whole number of ms
    Recipe("long_gop.mp4", frames=60, gop=30, b_frames=3),
    Recipe("one_frame.mp4", frames=1),
]


def make(folder: Path, recipe: Recipe) -> Clip:
    """Encode `recipe` into `folder`."""
    path = folder / recipe.name
    ticks = list(recipe.ticks) if recipe.ticks is not None else list(range(recipe.frames))
    height, width = recipe.size
    stored = (width, height) if recipe.rotation % 180 else (height, width)
    if recipe.sample_aspect:
        stored = (stored[0], round(stored[1] / recipe.sample_aspect))
    with av.open(str(path), "w", options=recipe.muxer) as container:
        stream = container.add_stream(recipe.codec, rate=recipe.fps, options=dict(recipe.options))
        stream.height, stream.width = stored
        stream.pix_fmt = recipe.pixel_format
        stream.gop_size = recipe.gop
        stream.max_b_frames = recipe.b_frames
        stream.time_base = stream.codec_context.time_base = Fraction(1, recipe.fps)
        stream.thread_count = 1
        if recipe.sample_aspect:
            stream.sample_aspect_ratio = recipe.sample_aspect
        if recipe.rotation:
            stream.set_display_rotation(recipe.rotation)
        sound = container.add_stream("aac", rate=8000, layout="mono") if recipe.audio else None
        for index, tick in enumerate(ticks):
            upright = np.rot90(picture(index, height, width), k=-recipe.rotation // 90)
            image = Image.fromarray(upright).resize((stored[1], stored[0]))
            frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24").reformat(format=recipe.pixel_format)
            frame.pts, frame.time_base = tick, Fraction(1, recipe.fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            _silence(container, sound, ticks[-1] / recipe.fps)
    clock = CLOCKS.get(path.suffix, Fraction(1, 1_000_000))
    times = tuple(float(round(Fraction(tick - ticks[0], recipe.fps) / clock) * clock) for tick in ticks)
    return Clip(path, times, times[-1] + 1 / recipe.fps)


def film(path: Path, pictures: Sequence[NDArray[np.uint8]], fps: int = 12, ticks: Sequence[int] | None = None) -> Path:
    """H.264 of any pictures [H, W, 3], keyframes two seconds apart whatever they show; `ticks` as in a `Recipe`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "sc_threshold": "0"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.gop_size, stream.thread_count = "yuv420p", 2 * fps, 1
        stream.time_base = stream.codec_context.time_base = Fraction(1, fps)
        for index, image in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index if ticks is None else ticks[index], Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _silence(container: OutputContainer, stream: AudioStream, seconds: float) -> None:
    for start in range(0, int(seconds * 8000), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 8000, start, Fraction(1, 8000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def audio_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        _silence(container, container.add_stream("aac", rate=8000, layout="mono"), 1.0)
    return path


def sound_with_cover(path: Path) -> Path:
    """Music whose only picture is its cover art."""
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1, options={"strict": "-1"})
        cover.width, cover.height, cover.pix_fmt = 128, 96, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(picture(3), format="rgb24").reformat(format="yuvj420p")
        frame.pts = 0
        container.mux(cover.encode(frame))
        container.mux(cover.encode())
        _silence(container, sound, 1.0)
    return path


def truncated(clip: Clip, keep: float, name: str) -> Clip:
    """The clip's first `keep` of bytes, beside it."""
    path = clip.path.with_name(name)
    data = clip.path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return Clip(path, clip.times, clip.duration)


def trimmed(clip: Clip, frames: int, name: str) -> Clip:
    """An mp4 of which an edit list hides the first frames, as phones' trimming without re-encoding does."""
    path = clip.path.with_name(name)
    with av.open(str(clip.path)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                shift = round(clip.times[frames] / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                container.mux(packet)
    return Clip(path, clip.times, clip.duration - clip.times[frames])


def corrupted(clip: Clip, packets: Sequence[int], name: str) -> Clip:
    """The clip with the payload of some packets (by decoding order) overwritten, beside it."""
    path = clip.path.with_name(name)
    data = bytearray(clip.path.read_bytes())
    with av.open(str(clip.path)) as container:
        found = [packet for packet in container.demux(video=0) if packet.size]
    for index in packets:
        begin, end = found[index].pos + 8, found[index].pos + found[index].size
        data[begin:end] = b"\xff" * (end - begin)
    path.write_bytes(bytes(data))
    return Clip(path, clip.times, clip.duration)


def zero_duration(clip: Clip, name: str) -> Path:
    """An mp4 whose time table (stts) gives every frame the duration 0."""
    data = bytearray(clip.path.read_bytes())
    table = data.index(b"stts") + 8
    for entry in range(int.from_bytes(data[table : table + 4], "big")):
        delta = table + 4 + 8 * entry + 4
        data[delta : delta + 4] = bytes(4)
    path = clip.path.with_name(name)
    path.write_bytes(bytes(data))
    return path


def image_folder(folder: Path, count: int, suffix: str = ".png") -> Path:
    """Images named frame0, frame1, ... frame10: in natural order image i shows index i."""
    folder.mkdir()
    for index in range(count):
        Image.fromarray(picture(index)).save(folder / f"frame{index}{suffix}")
    return folder
