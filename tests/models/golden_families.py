"""Cases whose pixels and texts the library's own video processors made: see tests/data/make_goldens.py."""

import numpy as np
from numpy.typing import NDArray

SIZES = {"qwen3_vl": (90, 130), "video_llama_3": (90, 130), "internvl": (90, 130), "llava_onevision": (45, 70)}
SIZES |= {"llava_next_video": (90, 131)}
TIMES = np.array([0.0, 0.52, 1.04, 1.56, 61.96])  # seconds, of five frames


def pixels(family: str) -> NDArray[np.uint8]:
    """Five frames; the lower half is still in the third and fourth."""
    frames = np.random.default_rng(5).integers(0, 256, (5, *SIZES[family], 3), dtype=np.uint8)
    half = frames.shape[1] // 2
    frames[2:4, half:] = frames[1, half:]
    return frames
