"""One prompt to measure on: text, a video of T x H x W tokens, text, as embeddings with their rotary positions."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from purekv_cli.bench.request import TEXT_AFTER, TEXT_BEFORE
from purekv_cli.method.layout import VideoLayout
from purekv_cli.models.positions import VisionTokens, mrope_positions
from purekv_cli.runtime.answering import next_position
from purekv_cli.runtime.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Problem:
    """What every arm reads."""

    label: str  # the length as it was asked for
    embeds: Tensor  # [1, N, hidden]
    positions: Tensor  # int64 [4, 1, N]: the text row, then t, h, w; or [1, N] for decoders that count tokens
    layout: VideoLayout

    @property
    def tokens(self) -> int:
        return self.layout.length

    @property
    def video(self) -> Tensor:
        """Embeddings of the video tokens, [V, hidden]."""
        return self.embeds[0, self.layout.video.to(self.embeds.device)]

    @property
    def next_position(self) -> int:
        """Rotary position of the first generated token."""
        return next_position(self.positions)

    def prompt(self) -> Prompt:
        """Fresh for every prefill, which may change it."""
        return Prompt.of_layouts([self.layout], self.embeds.device)


def synthetic(model: PreTrainedModel, label: str, steps: int, grid: tuple[int, int], seed: int = 0) -> Problem:
    """Random text around a random video of `steps` temporal steps."""
    video, image = 1, 2  # ids of this prompt alone: nothing looks them up
    count = steps * grid[0] * grid[1]
    ids = torch.zeros(1, TEXT_BEFORE + count + TEXT_AFTER, dtype=torch.int64)
    ids[0, TEXT_BEFORE : TEXT_BEFORE + count] = video
    decoder: Any = model.get_decoder()
    if hasattr(decoder.rotary_emb, "mrope_section"):
        patches = torch.tensor([[steps, 2 * grid[0], 2 * grid[1]]])
        positions, _ = mrope_positions(ids, VisionTokens(image, video, 2, 2.0), video_grids=patches)
    else:
        positions = torch.arange(ids.shape[1])[None]
    table: Any = model.get_input_embeddings().weight  # [vocabulary, hidden]
    scale = float(table[:64].detach().float().std())
    generator = torch.Generator(table.device).manual_seed(seed)
    embeds = torch.empty(1, ids.shape[1], table.shape[1], dtype=table.dtype, device=table.device)
    embeds.normal_(0, scale, generator=generator)
    layout = VideoLayout(ids.shape[1], torch.arange(TEXT_BEFORE, TEXT_BEFORE + count), (steps, *grid))
    return Problem(label, embeds, positions.to(table.device), layout)
