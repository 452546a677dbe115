"""Qwen2.5-VL on stock transformers: own pixels and positions, the checkpoint's own template and weights.

A prompt is the system message, the video and then the question, so everything up to the end of the video is the same
for every question about a clip: `prefix_length` tokens that several questions can share.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from purekv_cli.method.layout import VideoLayout
from purekv_cli.models.base import Inputs
from purekv_cli.models.geometry import ModelGeometry
from purekv_cli.models.positions import VisionTokens, mrope_positions
from purekv_cli.models.preprocess import PixelScale, preprocess
from purekv_cli.models.prompt import Prompt
from purekv_cli.video.frames import Frames


@dataclass(slots=True)
class QwenVL:
    """A loaded Qwen2.5-VL. Implements `base.Adapter`."""

    name: str
    geometry: ModelGeometry
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]
    prompt: Prompt
    tokens: VisionTokens
    scale: PixelScale
    family: str = "qwen2_5_vl"

    @classmethod
    def of(
        cls,
        name: str,
        folder: Path,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        geometry: ModelGeometry,
        preprocessor: Mapping[str, Any],
    ) -> "QwenVL":
        """Wrap a model and tokenizer that were loaded from `folder`."""
        config = model.config
        video_end = str(tokenizer.convert_ids_to_tokens(config.vision_end_token_id))
        return cls(
            name=name,
            geometry=geometry,
            model=model,
            tokenizer=tokenizer,
            stop_ids=_stop_ids(model, tokenizer),
            prompt=Prompt.read(tokenizer, folder, video_end),
            tokens=VisionTokens(
                config.image_token_id,
                config.video_token_id,
                geometry.merge,
                config.vision_config.tokens_per_second,
            ),
            scale=PixelScale.from_config(preprocessor),
        )

    @property
    def device(self) -> torch.device:
        """Where the embeddings live, and so where inputs belong."""
        weight: Tensor = self.model.get_input_embeddings().weight  # type: ignore[assignment]
        return weight.device

    def prepare(self, frames: Frames, question: str, features: Tensor | None = None) -> Inputs:
        """The first turn: system, video, question, and the opening of the answer.

        Frames whose sides are multiples of a cell were sized by the caller and stay as they are; others are resized
        to `geometry.frame_size`. With `features` [V, hidden], made of them while they were decoded, no pixels are.
        """
        height, width = frames.pixels.shape[1:3]
        cell = self.geometry.cell
        fits = not (height % cell or width % cell)
        size = (height, width) if fits else self.geometry.frame_size(height, width)
        vision = {}
        if features is None:
            vision["pixel_values_videos"], grid = preprocess(
                frames.pixels, size, self.geometry, self.scale, device=self.device, dtype=self.model.dtype
            )
        else:
            vision["video_features"] = features
            patches = (size[0] // self.geometry.patch, size[1] // self.geometry.patch)
            grid = torch.tensor([[-(-len(frames.pixels) // self.geometry.temporal_patch), *patches]])
        seconds = torch.tensor([self.geometry.temporal_patch * frames.seconds_per_frame], dtype=torch.float32)
        steps, rows, columns = int(grid[0, 0]), size[0] // cell, size[1] // cell
        head = self.prompt.head_ids()
        at = head.index(self.tokens.video)
        video = [self.tokens.video] * (steps * rows * columns)
        ids = torch.tensor([[*head[:at], *video, *head[at + 1 :], *self.prompt.question_ids(question)]])
        positions, after = mrope_positions(ids, self.tokens, video_grids=grid.cpu(), seconds_per_grid=seconds)
        layout = VideoLayout(ids.shape[1], torch.arange(at, at + len(video)), (steps, rows, columns))
        ids = ids.to(self.device)
        return Inputs(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=positions.to(self.device),
            next_position=int(after[0]),
            layout=layout,
            features={
                **vision,
                "video_grid_thw": grid.to(self.device),
                "second_per_grid_ts": seconds.to(self.device),
                "mm_token_type_ids": (ids == self.tokens.video).long() * 2,
            },
        )

    def prefix_length(self, inputs: Inputs) -> int:
        """Tokens up to and including the end of the video: the same for every question about the clip."""
        return inputs.layout.after + 1

    def tail(self, question: str) -> Tensor:
        """Ids [1, n] of the rest: the first `prefix_length` ids and these are the prompt of that question."""
        return torch.tensor([self.prompt.question_ids(question)], device=self.device)

    def follow_up(self, question: str, next_position: int) -> tuple[Tensor, Tensor]:
        """A later turn after a finished answer: (input_ids [1, n], position_ids [4, 1, n]).

        Args:
            next_position: rotary position after the last token that was fed; the answer's stop token was not.
        """
        ids = torch.tensor([self.prompt.turn_ids(question)], device=self.device)
        positions = torch.arange(next_position, next_position + ids.shape[1], device=self.device)
        return ids, positions.expand(4, 1, -1)


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """End-of-turn tokens: the generation config's and the tokenizer's."""
    listed = getattr(model.generation_config, "eos_token_id", None)
    stops = set(listed) if isinstance(listed, list) else {listed}
    stops.add(tokenizer.eos_token_id)
    return frozenset(stop for stop in stops if stop is not None)
