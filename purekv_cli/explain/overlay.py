"""The sampled frames as a video, shaded by what was kept: what the model looked at, at the clip's own pace."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from purekv_cli.demo.clips import write_frames
from purekv_cli.explain.kept import Kept
from purekv_cli.explain.shade import shade


def write_overlay(pixels: NDArray[np.uint8], kept: Kept, path: Path, layer: int | None = None) -> None:
    """Write H.264 mp4 of frames [F, h, w, 3], one every mean distance between them."""
    shares = kept.patches(layer)
    height, width = (edge - edge % 2 for edge in pixels.shape[1:3])  # yuv420p halves both
    shaded = [shade(frame, shares[step])[:height, :width] for frame, step in zip(pixels, kept.steps, strict=True)]
    spacing = (kept.end - float(kept.times[0])) / len(shaded)
    write_frames(np.stack(shaded), max(1, round(1000 * spacing)), path)
