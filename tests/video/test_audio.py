"""Sound that is decoded is the sound that was written, at the time of its picture."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purekv_cli.video.audio import MISSING, RATE, decode_sound
from purekv_cli.video.probe import probe
from tests.clips import Recipe, make

SECONDS, STEP = 3.0, 0.5  # every half second the tone is another one
TONES = (300, 1100, 500, 1500, 700, 1900)


def tones(rate: int) -> np.ndarray:
    """float32 [n]."""
    time = np.arange(int(SECONDS * rate)) / rate
    pitch = np.array(TONES)[(time / STEP).astype(int)]
    return (0.4 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def write(path: Path, rate: int, channels: int, codec: str, late: float = 0.0) -> Path:
    """Three seconds of pictures, and of sound that begins `late` seconds after them."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        layout = "stereo" if channels == 2 else "mono"
        audio = container.add_stream(codec, rate=rate, layout=layout)
        wave = tones(rate)
        for index in range(int(SECONDS * 10)):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24").reformat(
                format="yuv420p"
            )
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for start in range(0, len(wave) - 1023, 1024):
            part = np.repeat(wave[None, start : start + 1024], channels, 0)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, start + int(late * rate), Fraction(1, rate)
            container.mux(audio.encode(frame))
        container.mux(audio.encode())
    return path


def pitch_at(samples: np.ndarray, seconds: float) -> int:
    """The strongest tone of the fifth of a second around a time."""
    middle = int(seconds * RATE)
    part = samples[middle - RATE // 10 : middle + RATE // 10]
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
    return int(np.argmax(spectrum) * RATE / len(part))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("sound") / "tones.mkv", 44100, 2, "flac")


@pytest.mark.parametrize(
    ("name", "rate", "channels", "codec"),
    [
        ("a.mkv", 44100, 2, "flac"),
        ("b.mp4", 48000, 2, "aac"),
        ("c.ts", 48000, 1, "aac"),
        ("d.mov", 8000, 1, "pcm_s16le"),
    ],
)
def test_every_tone_is_at_its_time(tmp_path: Path, name: str, rate: int, channels: int, codec: str) -> None:
    sound = decode_sound(probe(write(tmp_path / name, rate, channels, codec)))
    assert sound.rate == RATE
    assert sound.samples.dtype == np.float32
    assert abs(len(sound.samples) - SECONDS * RATE) < 0.1 * RATE
    for index, tone in enumerate(TONES[:5]):
        assert abs(pitch_at(sound.samples, (index + 0.5) * STEP) - tone) <= 10
    assert np.sqrt(np.square(sound.samples).mean()) == pytest.approx(0.4 / 2**0.5, abs=0.02)


def test_sound_that_begins_later_than_the_picture_keeps_its_time(tmp_path: Path) -> None:
    sound = decode_sound(probe(write(tmp_path / "late.mkv", 16000, 1, "flac", late=1.0)))
    assert np.abs(sound.samples[: int(0.95 * RATE)]).max() == 0
    assert abs(pitch_at(sound.samples, 1.25) - TONES[0]) <= 10


@settings(deadline=None, max_examples=20)
@given(st.floats(0, 2.4), st.floats(0.1, 1))
def test_a_range_is_that_part_of_the_whole(clip: Path, start: float, length: float) -> None:
    info = probe(clip)
    whole, part = decode_sound(info).samples, decode_sound(info, start, start + length).samples
    first = round(start * RATE)
    assert len(part) in (round((start + length) * RATE) - first, len(whole) - first)
    assert np.array_equal(part, whole[first : first + len(part)])


def test_a_clip_without_sound_is_silent_and_says_so(tmp_path: Path) -> None:
    sound = decode_sound(probe(make(tmp_path, Recipe()).path))
    assert (len(sound.samples), sound.damage) == (0, MISSING)


def test_damaged_sound_loses_only_what_is_damaged(clip: Path, tmp_path: Path) -> None:
    data = bytearray(clip.read_bytes())
    broken = tmp_path / "broken.mkv"
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    broken.write_bytes(bytes(data))
    sound = decode_sound(probe(broken))
    assert len(sound.samples) > 0.5 * SECONDS * RATE
    assert abs(pitch_at(sound.samples, 0.25) - TONES[0]) <= 10
