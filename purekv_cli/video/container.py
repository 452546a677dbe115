"""Opening a video file and reading its packets, with every way in which that fails said in plain words.

`container.decode()` of PyAV ends at the first damaged packet, so packets are demuxed here and decoded one by one by the
caller, who survives a bad one. A demuxer that stumbles is asked again a few times: many find the next good packet.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from purekv_cli.errors import UnreadableInput

MAX_DEMUX_ERRORS = 16
# Formats that FFmpeg recognises in plain text and would "play".
TEXT_FORMATS = frozenset({"tty", "ansi", "concat", "hls", "lrc", "srt", "webvtt", "ass"})


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its best video stream (cover art is none).

    Errors: UnreadableInput for what cannot be opened, is no video, has no picture or no decoder here.
    """
    try:
        # The "file:" prefix keeps names with colons or a leading dash from being taken for protocols and options.
        container = av.open(f"file:{path}", metadata_errors="replace")
    except av.FFmpegError as error:
        raise _cannot_open(path, error) from error
    with container:
        names = set(container.format.name.split(","))
        if names & TEXT_FORMATS:
            raise _no_video(path)
        streams = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not streams:
            raise UnreadableInput(
                f"{path.name} has no video stream{', only audio' if container.streams.audio else ''}",
                "Give a file with a picture: purekv reads frames, not sound.",
            )
        best = container.streams.best("video")
        stream = next((stream for stream in streams if best is not None and stream.index == best.index), streams[0])
        if stream.codec_context is None:
            raise UnreadableInput(
                f"{path.name} uses a video codec that this build of FFmpeg cannot decode",
                "Convert it first: ffmpeg -i INPUT -c:v libx264 OUTPUT.mp4",
            )
        yield container, stream


def read_packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """The stream's packets from where the container stands; the last is the empty one that flushes the decoder."""
    errors = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.FFmpegError:
            errors += 1
            if errors > MAX_DEMUX_ERRORS:
                return
            packets = container.demux(stream)
            continue
        # An empty packet with a timestamp is a dropped frame; to the decoder it would read as the end.
        if packet.size or (packet.pts is None and packet.dts is None):
            yield packet


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _no_video(path: Path) -> UnreadableInput:
    return UnreadableInput(
        f"{path.name} is not a video, whatever its name says",
        "Give an mp4, mov, mkv, webm, ts, avi or gif file, an image, or a folder of images.",
    )


def _cannot_open(path: Path, error: av.FFmpegError) -> UnreadableInput:
    if isinstance(error, PermissionError):
        return UnreadableInput(f"{path} may not be read", "Check the file's permissions.")
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        return UnreadableInput(
            f"{path.name} was cut off before its index (moov) was written",
            "Copy or record it again in full, or rebuild the index with a repair tool such as untrunc.",
        )
    return _no_video(path)
