"""VideoLLaMA3: every frame behind its time stamp; patches that stay as they were a frame before are left out.

Where all of them changed the layout is the full grid. Where some are left out there is no grid any more: the tokens are
described as one row of one frame, which makes ST-SpAttn read all of it.
"""

import torch
from torch import Tensor

from purekv_cli.models.chat import Seen, VideoChat
from purekv_cli.models.preprocess import PixelScale
from purekv_cli.video.frames import Frames

STILL = 0.1  # mean difference of a patch's normalised pixels, times 255, up to which it is left out


class VideoLlama3(VideoChat):
    """A loaded VideoLLaMA3."""

    placeholder = "<|video_pad|>"
    scaling = PixelScale((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    def see(self, frames: Frames, features: Tensor | None) -> Seen:
        vision, patches, (steps, rows, columns) = self.patches(frames, features)
        moved = changed(vision["pixel_values_videos"].view(steps, rows * columns, -1))
        given = {
            **vision,
            "video_grid_thw": patches.to(self.device),
            "video_merge_sizes": torch.full((1,), self.geometry.merge, device=self.device),
            "video_compression_mask": moved.flatten(),
        }
        return Seen(given, (steps, rows, columns) if bool(moved.all()) else (1, 1, int(moved.sum())))

    def write(self, frames: Frames, seen: Seen) -> tuple[str, list[int]]:
        counts = seen.features["video_compression_mask"].view(len(frames.times), -1).sum(1).tolist()
        return ",".join(f"Time {time:.1f}s:{self.video_token}" for time in frames.times), counts


def changed(patches: Tensor) -> Tensor:
    """bool [T, cells]: what is not as it was a frame before; all of the first frame, and one cell of every other.

    Args:
        patches: normalised pixels, [T, cells, values].
    """
    moved = torch.ones(patches.shape[:2], dtype=torch.bool, device=patches.device)
    moved[1:] = (patches[1:].float() - patches[:-1].float()).abs().mean(-1) * 255 > STILL
    moved[~moved.any(1), 0] = True
    return moved
