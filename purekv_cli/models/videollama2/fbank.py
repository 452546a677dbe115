"""Sound to a mel filter bank as Kaldi computes it, which is what BEATs reads; and which part of a clip's sound that is.

    frames of 25 ms every 10 ms, whole ones only -> minus their mean -> pre-emphasis 0.97 -> Povey window
    -> power spectrum of 512 points -> 128 triangles between 20 Hz and 8 kHz, even on the mel scale -> log

The model hears eight pieces of two seconds spread over the clip, one after the other, then silence up to 30 seconds.
Sources: Kaldi's compute-fbank-feats (defaults but for the number of bins, no dither), the reference's preprocessing.
"""

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

RATE = 16_000  # samples a second
FRAME, HOP, POINTS = 400, 160, 512  # samples: 25 ms, 10 ms, the spectrum's
BINS = 128
LOWEST = 20.0  # Hz
EMPHASIS = 0.97
FLOOR = 2.0**-23  # of a bin's power before the logarithm
PIECES, PIECE = 8, 2  # pieces of two seconds
LENGTH = 30 * RATE  # samples the model hears, silence included


def fbank(samples: Tensor) -> Tensor:
    """Log mel energies [frames, 128] of samples [n] between -1 and 1, in their dtype; Kaldi counts them as 16 bit."""
    frames = (samples * 2**15).unfold(0, FRAME, HOP)
    frames = frames - frames.mean(1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], 1)
    frames = (frames - EMPHASIS * before) * _window(samples.dtype)
    power = torch.fft.rfft(frames, POINTS).abs().square()
    return (power @ mel_triangles(samples.dtype).mT).clamp(min=FLOOR).log()


@lru_cache
def mel_triangles(dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights [128, 257] of the spectrum's points."""
    edges = [1127 * math.log(1 + hertz / 700) for hertz in (LOWEST, RATE / 2)]
    width = (edges[1] - edges[0]) / (BINS + 1)
    left = edges[0] + width * torch.arange(BINS, dtype=torch.float64)[:, None]
    mel = 1127 * torch.log1p(torch.arange(POINTS // 2 + 1, dtype=torch.float64) * RATE / POINTS / 700)
    weights = torch.minimum((mel - left) / width, (left + 2 * width - mel) / width).clamp(min=0)
    weights[:, -1] = 0  # Kaldi leaves the last point out
    return weights.to(dtype)


@lru_cache
def _window(dtype: torch.dtype) -> Tensor:
    """Povey's: a Hann window to the power of 0.85."""
    return torch.hann_window(FRAME, periodic=False, dtype=torch.float64).pow(0.85).to(dtype)


def heard(samples: NDArray[np.float32]) -> Tensor:
    """The 30 seconds [480000] that the model hears of a clip's sound [n], which is at 16 kHz."""
    latest = Fraction(max(len(samples) / RATE - PIECE, 0.0))
    starts = [latest * index / PIECES for index in range(PIECES)]
    pieces = [samples[int(start * RATE) : int((start + PIECE) * RATE)] for start in starts]
    joined = torch.from_numpy(np.concatenate(pieces))[:LENGTH]
    return F.pad(joined, (0, LENGTH - len(joined)))


def features_of(samples: NDArray[np.float32]) -> Tensor:
    """The filter bank [2998, 128] of a clip's sound [n] at 16 kHz, rounded to bfloat16 as the reference does."""
    return fbank(heard(samples)).bfloat16().float()
