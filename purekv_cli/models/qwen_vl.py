"""Qwen2.5-VL on stock transformers: own pixels and positions, the checkpoint's own template and weights."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from purekv_cli.models.chat import Seen, VideoChat
from purekv_cli.models.positions import VisionTokens, mrope_positions
from purekv_cli.video.frames import Frames


class QwenVL(VideoChat):
    """A loaded Qwen2.5-VL: time is counted in seconds, of uneven frames in their own."""

    placeholder: ClassVar[str] = "<|vision_start|><|video_pad|><|vision_end|>"

    @property
    def tokens(self) -> VisionTokens:
        """How the checkpoint marks vision tokens and counts time."""
        config = self.model.config
        pace = float(getattr(config.vision_config, "tokens_per_second", 1.0))
        return VisionTokens(config.image_token_id, self.video_id, self.geometry.merge, pace)

    def seconds(self, frames: Frames) -> Tensor:
        """Between two grid steps, float32 [1]."""
        return torch.tensor([self.geometry.temporal_patch * frames.seconds_per_frame], dtype=torch.float32)

    def elapsed(self, frames: Frames, steps: int) -> Tensor:
        """From the first grid step to each, s, float32 [T]; where frames are uneven, by the first of every step."""
        if frames.even:
            return torch.arange(steps) * self.seconds(frames)
        firsts = torch.from_numpy(frames.times[:: self.geometry.temporal_patch])
        return (firsts - firsts[0]).float()

    def see(self, frames: Frames, features: Tensor | None) -> Seen:
        vision, patches, grid = self.patches(frames, features)
        seconds = self.seconds(frames).to(self.device)
        return Seen({**vision, "video_grid_thw": patches.to(self.device), "second_per_grid_ts": seconds}, grid)

    def write(self, frames: Frames, seen: Seen) -> tuple[str, list[int]]:
        steps, rows, columns = seen.grid
        return self.placeholder, [steps * rows * columns]

    def place(self, ids: Tensor, clips: Sequence[Frames], seen: Seen) -> Tensor:
        grids = seen.features["video_grid_thw"].cpu()
        seen.features["mm_token_type_ids"] = (ids == self.video_id).long().to(self.device) * 2
        elapsed = torch.cat(list(map(self.elapsed, clips, grids[:, 0].tolist())))
        return mrope_positions(ids, self.tokens, video_grids=grids, step_seconds=elapsed)[0]
