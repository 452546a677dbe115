"""A second variant of the world: the same things and events before natural ground under a camera that never rests.

Held back for tests: no model is trained on it and no method is tuned on it. The ground is a coloured texture with
detail at all scales (amplitudes fall as 1/f, as in photographs), in half of the clips broken into stones or leaves;
it is darker and duller than any thing. The camera pans over it at 4 to 10 pixels a frame along a slow curve, in parts
of a pixel, so every background pixel changes in every frame; the training world drifts by at most 3 along each axis, in
half of its clips, over plain patterns. Things, events, questions and other disturbances are those of the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from purekv_cli.demo.render import Planes
from purekv_cli.demo.staging import Staging
from purekv_cli.demo.world import Scene

SIDE = 512  # pixels; the ground repeats after so many
SPEEDS = (4.0, 10.0)  # pixels per frame
#: soil, bark, moss, leaf, stone, sand
PALETTE = ((62, 46, 32), (46, 36, 28), (48, 62, 30), (66, 78, 36), (80, 79, 75), (98, 88, 68))


def backdrop(scene: Scene, staging: Staging) -> Callable[[int], Planes]:
    """What lies behind the things: from a frame's number to planes of grey levels, float32 [1, H, W] each."""
    rng = np.random.default_rng([scene.seed, 78])
    ground = torch.from_numpy(natural_ground(rng))
    shift = staging.camera[:, :2].astype(np.float64) + pan(len(staging.camera), rng)
    rows, columns = torch.arange(scene.height + 1), torch.arange(scene.width + 1)

    def at(frame: int) -> Planes:
        (left, part_x), (top, part_y) = (divmod(value, 1) for value in shift[frame])
        seen = ground[:, (rows + int(top)) % SIDE][:, :, (columns + int(left)) % SIDE]
        seen = seen[:, :-1] + (seen[:, 1:] - seen[:, :-1]) * part_y
        seen = seen[:, :, :-1] + (seen[:, :, 1:] - seen[:, :, :-1]) * part_x
        red, green, blue = seen[:, None]
        return red, green, blue

    return at


def pan(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Where the camera looks: float64 [F, 2] in pixels, x and y, at an even speed in a direction that slowly turns."""
    speed, start = rng.uniform(*SPEEDS), rng.uniform(0, 2 * math.pi)
    swing, period = rng.uniform(0.3, 1.2), rng.uniform(20, 80)
    heading = start + swing * np.sin(2 * math.pi * np.arange(frames) / period)
    return np.cumsum(speed * np.stack([np.cos(heading), np.sin(heading)], -1), 0)


def natural_ground(rng: np.random.Generator) -> np.ndarray:
    """Grey levels of one texture that tiles the plane: float32 [3, SIDE, SIDE]."""
    first, second = (np.array(PALETTE[i], np.float64) for i in rng.choice(len(PALETTE), 2, replace=False))
    mixed = 1 / (1 + np.exp(-2 * _noise(rng, 1.6)))[..., None]
    light = 1.25 + 0.4 * np.tanh(_noise(rng, rng.uniform(0.9, 1.3)))
    if rng.random() < 0.5:
        light = light * _pieces(rng, int(rng.integers(8, 15)))
    levels = (first * mixed + second * (1 - mixed)) * light[..., None] + 5 * _noise(rng, 0.5)[..., None]
    return np.clip(levels, 4, 150).astype(np.float32).transpose(2, 0, 1)


def _noise(rng: np.random.Generator, slope: float) -> np.ndarray:
    """Noise whose amplitude falls as 1 / f^slope: float64 [SIDE, SIDE], mean 0, deviation 1."""
    across, down = np.fft.rfftfreq(SIDE), np.fft.fftfreq(SIDE)
    frequency = np.hypot(across, down[:, None])
    frequency[0, 0] = np.inf  # no mean
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((SIDE, SIDE))) / frequency**slope, s=(SIDE, SIDE))
    return field / field.std()


def _pieces(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Stones or leaves: a factor of light, float32 [SIDE, SIDE].

    Every pixel belongs to the nearest of cells x cells points, one somewhere in each square of a grid; each piece has
    its own tone, and where two meet is a dark seam.
    """
    points = (np.indices((cells, cells)) + rng.random((2, cells, cells))).astype(np.float32) * (SIDE / cells)
    tones = rng.uniform(0.6, 1.4, (cells, cells)).astype(np.float32)
    axis = np.arange(SIDE)
    own = axis * cells // SIDE
    nearest = np.full((SIDE, SIDE), np.inf, np.float32)
    second, tone = nearest.copy(), np.ones_like(nearest)
    for down in range(-2, 3):
        for across in range(-2, 3):
            square = np.ix_((own + down) % cells, (own + across) % cells)
            y, x = (
                (place[square] - at + SIDE / 2) % SIDE - SIDE / 2
                for place, at in zip(points, (axis[:, None], axis), strict=True)
            )
            distance = np.hypot(y, x)
            tone = np.where(distance < nearest, tones[square], tone)
            second = np.minimum(second, np.maximum(distance, nearest))
            nearest = np.minimum(nearest, distance)
    return tone * (0.5 + 0.5 * np.clip((second - nearest) / 6, 0, 1))
