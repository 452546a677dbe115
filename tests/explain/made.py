"""A small clip with known kept entries, so that pictures and shares can be worked out by hand."""

import numpy as np

from purekv_cli.explain.kept import Kept

BEFORE, GRID = 3, (2, 2, 3)  # text tokens before the video; T x H x W


def made(frames: int = 4, seconds: float = 0.5) -> Kept:
    """2 layers of 2 KV heads: all keep the text and the first step's first patch, layer 1 the whole second step too."""
    video = BEFORE + np.arange(12)
    entries = np.zeros((2, 2, BEFORE + 12 + 2), np.bool_)
    entries[..., [0, 1, 2, -2, -1]] = True
    entries[..., video[0]] = True
    entries[1][:, video[6:]] = True
    times = seconds * np.arange(frames)
    return Kept(entries, video, np.zeros(0, np.int64), GRID, times, seconds * frames)
