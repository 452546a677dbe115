"""Subtitle files and videos with subtitles in them."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
from av.subtitles.subtitle import SubtitleSet

from purekv_cli.subtitles.cue import Cue

SAID = (Cue(0.5, 1.0, "hello there"), Cue(2.0, 3.0, "so long"))
_HEADER = (
    b"[Script Info]\n[V4+ Styles]\nFormat: Name\nStyle: Default\n[Events]\nFormat: Layer, Start, End, Style, Text\n"
)
_MS = Fraction(1, 1000)


def srt(path: Path, cues: Sequence[Cue] = SAID, encoding: str = "utf-8") -> Path:
    """A SubRip file."""

    def stamp(time: float) -> str:
        seconds, milliseconds = divmod(round(time * 1000), 1000)
        return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d},{milliseconds:03d}"

    blocks = (f"{n}\n{stamp(cue.start)} --> {stamp(cue.end)}\n{cue.text}\n" for n, cue in enumerate(cues, 1))
    path.write_text("\n".join(blocks), encoding=encoding)
    return path


def with_stream(source: Path, path: Path, codec: str, cues: Sequence[Cue] = SAID, offset: float = 0.0) -> Path:
    """`source` with a subtitle stream added; `offset`: s, where the container's clock begins."""
    with av.open(str(source)) as old, av.open(str(path), "w", options={"output_ts_offset": str(offset)}) as new:
        video = new.add_stream_from_template(old.streams.video[0])
        words = new.add_stream(codec)
        words.codec_context.subtitle_header = _HEADER
        words.time_base = words.codec_context.time_base = _MS
        packets = []
        for number, cue in enumerate(cues):
            start, length = round(cue.start * 1000), round((cue.end - cue.start) * 1000)
            event = f"{number},0,Default,,0,0,0,,{cue.text}".encode()
            packet = words.codec_context.encode_subtitle(SubtitleSet.create(event, 0, length, start))
            packet.stream, packet.time_base = words, _MS
            packet.pts = packet.dts = start
            packet.duration = length
            packets.append(packet)
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                new.mux(packet)
        for packet in packets:
            new.mux(packet)
    return path
