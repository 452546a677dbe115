"""Qwen3-VL: every grid step is introduced by its time stamp and is a vision block of its own.

Its tower feeds the first decoder layers too (deepstack), so tokens can only end above those.
"""

from collections.abc import Sequence

from torch import Tensor

from purekv_cli.models.chat import Seen
from purekv_cli.models.positions import mrope_positions
from purekv_cli.models.preprocess import PixelScale
from purekv_cli.models.qwen2_vl import Qwen2VL
from purekv_cli.video.frames import Frames


class Qwen3VL(Qwen2VL):
    """A loaded Qwen3-VL."""

    scaling = PixelScale((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    def write(self, frames: Frames, seen: Seen) -> tuple[str, list[int]]:
        """A step's time is the mean of its first and its last frame's."""
        steps, rows, columns = seen.grid
        depth, times = self.geometry.temporal_patch, frames.times
        first = times[::depth]
        last = times[[min(start + depth, len(times)) - 1 for start in range(0, len(times), depth)]]
        stamps = [f"<{time:.1f} seconds>" for time in (first + last) / 2]
        return "".join(stamp + self.placeholder for stamp in stamps), [rows * columns] * steps

    def place(self, ids: Tensor, clips: Sequence[Frames], seen: Seen) -> Tensor:
        grids = seen.features["video_grid_thw"].cpu()
        seen.features["mm_token_type_ids"] = (ids == self.video_id).long().to(self.device) * 2
        blocks = grids.repeat_interleave(grids[:, 0], 0)
        blocks[:, 0] = 1
        return mrope_positions(ids, self.tokens, video_grids=blocks)[0]
