"""A synthetic clip on disk for benches that begin at the file: 720p, 30 frames a second, a keyframe every 250 frames.

A window pans over a soft texture under grain, so that the encoder has motion and detail to store, as a camera gives.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

RATE, GOP = 30, 250
SIZE = (720, 1280)  # height, width
_GRAINS = 4


def write(path: Path, seconds: float, size: tuple[int, int] = SIZE) -> None:
    """An H.264 mp4 of that length."""
    height, width = size
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    soft = Image.fromarray(coarse).resize((width + width // 4, height + height // 4), Image.Resampling.BICUBIC)
    texture = np.asarray(soft).astype(np.int16)
    grains = (random.integers(-12, 13, texture.shape, dtype=np.int16) for _ in range(_GRAINS))
    grainy = [(texture + grain).clip(0, 255).astype(np.uint8) for grain in grains]
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "crf": "23"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.gop_size = GOP
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.time_base = Fraction(1, RATE)
        for index in range(max(2, round(seconds * RATE))):
            y = round(height / 8 * (1 + np.sin(index / 37)))
            x = round(width / 8 * (1 + np.sin(index / 53)))
            shown = np.ascontiguousarray(grainy[index % _GRAINS][y : y + height, x : x + width])
            frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
