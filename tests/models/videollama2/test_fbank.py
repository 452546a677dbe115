"""The filter bank against Kaldi's formulas in float64, written out; and which sound of a clip is heard."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.models.videollama2.fbank import LENGTH, RATE, fbank, features_of, heard, mel_triangles


def by_the_formula(samples: np.ndarray) -> np.ndarray:
    """Frame by frame, point by point, bin by bin, float64 [frames, 128]."""
    wave = samples.astype(np.float64) * 32768
    window = np.array([(0.5 - 0.5 * math.cos(2 * math.pi * n / 399)) ** 0.85 for n in range(400)])
    turns = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(400)) / 512)

    def mel(hertz: float) -> float:
        return 1127 * math.log(1 + hertz / 700)

    edges = np.linspace(mel(20), mel(8000), 130)
    rows = []
    for start in range(0, len(wave) - 399, 160):
        frame = wave[start : start + 400] - wave[start : start + 400].mean()
        frame = np.array([frame[n] - 0.97 * frame[max(n - 1, 0)] for n in range(400)]) * window
        power = np.abs(turns @ frame) ** 2
        row = []
        for b in range(128):
            left, centre, right = edges[b : b + 3]
            energy = 0.0
            for point in range(256):
                m = mel(point * 16000 / 512)
                rise, fall = (m - left) / (centre - left), (right - m) / (right - centre)
                energy += power[point] * max(0.0, min(rise, fall))
            row.append(math.log(max(energy, 2.0**-23)))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("kind", ["noise", "tone", "quiet"])
def test_the_bank_is_the_formulas(kind: str) -> None:
    time = np.arange(1500) / RATE
    noise = np.random.default_rng(0).normal(0, 0.1, 1500)
    wave = {"noise": noise, "tone": 0.5 * np.sin(2 * np.pi * 440 * time), "quiet": noise * 1e-4}[kind]
    truth = by_the_formula(wave)
    exact = fbank(torch.from_numpy(wave))
    assert exact.shape == (1 + (1500 - 400) // 160, 128)
    loud = truth > truth.max() - 12  # what is a million times weaker than its neighbours is lost in rounding
    assert np.abs(exact.numpy() - truth)[loud].max() < 1e-9
    assert np.abs(exact.numpy() - truth).max() < 1e-6
    single = fbank(torch.from_numpy(wave.astype(np.float32))).numpy()
    assert np.abs(single - truth)[loud].max() < 2e-3


def test_silence_is_the_floor() -> None:
    assert torch.equal(fbank(torch.zeros(800)), torch.full((3, 128), math.log(2.0**-23)))


def test_triangles_overlap_by_halves() -> None:
    """Between the first and the last centre the weights of a point sum to one."""
    sums = mel_triangles(torch.float64).sum(0)
    assert sums[3:248].allclose(torch.ones(245, dtype=torch.float64))
    assert sums[-1] == 0


@given(st.integers(0, 40 * RATE))
def test_eight_pieces_of_two_seconds_then_silence(count: int) -> None:
    samples = np.arange(1, count + 1, dtype=np.float32)
    wave = heard(samples)
    assert len(wave) == LENGTH
    piece = min(count, 2 * RATE)
    spoken = int((wave != 0).sum())
    assert spoken == 8 * piece
    starts = wave[: 8 * piece : max(piece, 1)]
    expected = [1 + int(max(count - 2 * RATE, 0) * k / 8) for k in range(8)] if count else []
    assert [int(s) for s in starts] == pytest.approx(expected, abs=1)


def test_features_of_a_clip() -> None:
    bank = features_of(np.random.default_rng(1).normal(0, 0.1, 5 * RATE).astype(np.float32))
    assert bank.shape == (2998, 128)
    assert torch.equal(bank, bank.bfloat16().float())
    assert (bank[1700:] == bank[-1]).all()  # 16 s of sound, then silence
    assert bank[:1590].std() > 0.5
