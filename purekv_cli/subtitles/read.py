"""Subtitles read by FFmpeg: of a subtitle file (srt, vtt, ass and what else it knows) or a video's own stream."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.subtitles.subtitle import AssSubtitle, BitmapSubtitle

from purekv_cli.errors import UnreadableInput
from purekv_cli.subtitles.cue import Cue, said_once
from purekv_cli.subtitles.markup import plain
from purekv_cli.video.container import TEXT_FORMATS, read_packets

UNREAD = "Give an srt, vtt or ass file, or a video that carries its subtitles as text."
_UTF16 = (b"\xff\xfe", b"\xfe\xff")  # FFmpeg reads it by itself


def read_file(path: Path) -> list[Cue]:
    """The subtitles of a file, by time.

    Errors: UnreadableInput, for what is missing, damaged, or holds no subtitles in text form.
    """
    if not path.is_file():
        raise UnreadableInput(f"there is no subtitle file {path}", "Check the path, or leave it to --subs auto.")
    cues, pictures = _cues(path, 0.0)
    if cues:
        return cues
    what = "holds its subtitles as pictures, not as text" if pictures else "holds no subtitles"
    raise UnreadableInput(f"{path.name} {what}", UNREAD)


def read_own(path: Path, origin: float) -> tuple[list[Cue], bool]:
    """A video's own subtitles: those marked as default, else the first that are text; and whether some are pictures.

    Args:
        origin: the first frame's time on the container's clock, in s.
    """
    return _cues(path, origin)


def _cues(path: Path, origin: float) -> tuple[list[Cue], bool]:
    pictures = False
    with _opened(path) as container:
        order = sorted(container.streams.subtitles, key=lambda s: (not s.disposition & Disposition.default, s.index))
        wanted = [stream.index for stream in order if stream.codec_context is not None]
    for index in wanted:
        with _opened(path) as container:
            found = []
            for cue in _decoded(container, index, origin):
                if cue is None:
                    pictures = True
                    break
                found.append(cue)
        if said := said_once(found):
            return said, pictures
    return [], pictures


def _decoded(container: InputContainer, index: int, origin: float) -> Iterator[Cue | None]:
    """The stream's cues; None for one that is a picture. Packets that cannot be decoded are passed over."""
    stream = container.streams[index]
    codec = stream.codec_context.name  # type: ignore[attr-defined]
    for packet in read_packets(container, stream):  # type: ignore[arg-type]
        if packet.pts is None or not packet.size or not packet.time_base:
            continue
        start = float(packet.pts * packet.time_base) - origin
        end = start + float((packet.duration or 0) * packet.time_base)
        try:
            events = packet.decode()
        except av.FFmpegError:
            continue
        for event in events:
            if isinstance(event, BitmapSubtitle):
                yield None
            elif isinstance(event, AssSubtitle) and (text := plain(event.ass, codec)):
                yield Cue(start, end, text)


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    try:
        container = av.open(f"file:{path}", metadata_errors="replace")
        if TEXT_FORMATS & set(container.format.name.split(",")):
            container = _as_utf8(path, container)
    except (av.FFmpegError, OSError) as error:
        raise UnreadableInput(f"{path.name} cannot be read as subtitles: {error.strerror}", UNREAD) from error
    with container:
        yield container


def _as_utf8(path: Path, container: InputContainer) -> InputContainer:
    """A text file in an old encoding would lose every line with an accent: read as Windows-1252 instead."""
    raw = path.read_bytes()
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        if raw.startswith(_UTF16):
            return container
        name = container.format.name.split(",")[0]
        container.close()
        return av.open(io.BytesIO(raw.decode("cp1252", "replace").encode()), "r", format=name)
    return container
