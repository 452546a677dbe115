"""The sound of a clip as one channel of samples, aligned with its picture. PyAV decodes and resamples.

Damaged packets are left out, as with pictures. Sound that begins after the picture is preceded by silence; what comes
before the picture is cut off.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from purekv_cli.video.container import read_packets
from purekv_cli.video.info import VideoInfo

RATE = 16_000  # samples a second that encoders of speech and sound take
MISSING = "the clip has no sound"
BROKEN = "the clip's sound cannot be decoded"


@dataclass(frozen=True, slots=True)
class Sound:
    """Samples between -1 and 1, rounded to 16 bits."""

    samples: NDArray[np.float32]  # [n], one channel
    rate: int  # samples a second
    damage: str | None = None  # why there is none


def decode_sound(info: VideoInfo, start: float = 0.0, end: float | None = None, rate: int = RATE) -> Sound:
    """The sound from `start` to `end` (s from the clip's first frame); a clip without sound has no samples."""
    nothing = np.zeros(0, np.float32)
    if info.kind != "video" or not info.audio:
        return Sound(nothing, rate, MISSING)
    resampler = AudioResampler(format="s16", layout="mono", rate=rate)
    parts: list[NDArray[np.int16]] = []
    last, count = round((info.duration if end is None else end) * rate), 0
    for frame in _frames(info):
        if not parts:
            lead = round(((frame.time or 0.0) - info.origin * float(info.time_base)) * rate)
            parts, count = [np.zeros(max(lead, 0), np.int16)], lead
        frame.pts = None  # a broken clock would be mended by the resampler: samples are counted instead
        parts += [_samples(piece) for piece in resampler.resample(frame)]
        count += len(parts[-1])
        if count >= last:
            break
    if not parts:
        return Sound(nothing, rate, BROKEN)
    parts += [_samples(piece) for piece in resampler.resample(None)]
    samples = np.concatenate(parts)[max(-lead, 0) :]
    return Sound((samples[round(start * rate) : last] / np.float32(2**15)).astype(np.float32), rate)


def _samples(frame: AudioFrame) -> NDArray[np.int16]:
    return np.asarray(frame.to_ndarray(), np.int16).reshape(-1)


def _frames(info: VideoInfo) -> Iterator[AudioFrame]:
    """What can be decoded of the best sound stream."""
    with av.open(f"file:{info.path}", metadata_errors="replace") as container:
        stream = container.streams.best("audio")
        if stream is None or stream.codec_context is None:
            return
        for packet in read_packets(container, stream):  # type: ignore[arg-type]
            try:
                yield from packet.decode()  # type: ignore[misc]
            except av.EOFError:
                return
            except av.FFmpegError:
                continue
