"""The decoded frames of one clip: what the video side hands to the model side."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from purekv_cli.video.audio import Sound


@dataclass(frozen=True, slots=True)
class Frames:
    """N frames in ascending time, upright, and where they came from."""

    pixels: NDArray[np.uint8]  # [N, H, W, 3], RGB, rotation applied
    times: NDArray[np.float64]  # [N], s from the clip's first frame: the frames' own timestamps
    targets: NDArray[np.float64]  # [N], s: the times that were asked for; times[i] <= targets[i]
    seconds_per_frame: float  # the spacing that was asked for; the mean one where it is uneven
    decode_seconds: float
    damage: str | None = None  # "read 12.0 of 20.0 s", "skipped 5 damaged packets"; None when all was well
    sound: "Sound | None" = None  # of the same range; None: not asked for
    even: bool = True  # whether the targets are so far apart; otherwise only `times` tell when a frame is shown
