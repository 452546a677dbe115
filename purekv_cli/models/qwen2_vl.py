"""Qwen2-VL: as Qwen2.5-VL, but a grid step is one position in time, whatever the sampling."""

from dataclasses import replace

import torch
from torch import Tensor

from purekv_cli.models.chat import Seen
from purekv_cli.models.positions import VisionTokens
from purekv_cli.models.qwen_vl import QwenVL
from purekv_cli.video.frames import Frames


class Qwen2VL(QwenVL):
    """A loaded Qwen2-VL."""

    @property
    def tokens(self) -> VisionTokens:
        return replace(super().tokens, tokens_per_second=1.0)

    def elapsed(self, frames: Frames, steps: int) -> Tensor:
        return torch.arange(steps).float()

    def see(self, frames: Frames, features: Tensor | None) -> Seen:
        vision, patches, grid = self.patches(frames, features)
        return Seen({**vision, "video_grid_thw": patches.to(self.device)}, grid)
