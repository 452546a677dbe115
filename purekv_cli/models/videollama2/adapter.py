"""VideoLLaMA2 as an adapter: frames to squares, squares to a grid of tokens, plain one-dimensional positions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from purekv_cli.errors import UsageError
from purekv_cli.method.layout import VideoLayout
from purekv_cli.models import hub
from purekv_cli.models.base import Inputs
from purekv_cli.models.geometry import ModelGeometry, one_video
from purekv_cli.models.preprocess import PixelScale
from purekv_cli.models.prompt import Talk
from purekv_cli.models.videollama2.beats import BeatsSizes
from purekv_cli.models.videollama2.config import VIDEO
from purekv_cli.models.videollama2.fbank import RATE, features_of
from purekv_cli.models.videollama2.model import VideoLlama2
from purekv_cli.models.videollama2.pixels import Squares
from purekv_cli.models.videollama2.prompt import Prompt
from purekv_cli.models.videollama2.tower import find_tower
from purekv_cli.video.frames import Frames


@dataclass(slots=True)
class VideoLlama2Chat:
    """A loaded VideoLLaMA2. Implements `base.Adapter`."""

    name: str
    geometry: ModelGeometry
    model: VideoLlama2
    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]
    prompt: Prompt
    squares: Squares
    family: str = "videollama2"

    @classmethod
    def of(
        cls,
        name: str,
        folder: Path,
        model: VideoLlama2,
        tokenizer: PreTrainedTokenizerBase,
        geometry: ModelGeometry,
        preprocessor: Mapping[str, Any],
        family: str = "videollama2",
    ) -> "VideoLlama2Chat":
        """Wrap a model and tokenizer that were loaded from `folder`; the preprocessor is the tower's own."""
        del preprocessor
        text: Any = model.config.text_config
        tower = find_tower(hub.read_json(folder / "config.json"))
        listed = model.generation_config.eos_token_id if model.generation_config else None
        stops = {*(listed if isinstance(listed, list) else [listed]), tokenizer.eos_token_id} - {None}
        return cls(
            name=name,
            geometry=geometry,
            model=model,
            tokenizer=tokenizer,
            stop_ids=frozenset(stops),
            prompt=Prompt.read(tokenizer, mistral=text.model_type != "qwen2"),
            squares=Squares.from_config(tower.preprocessor, tower.side),
            family=family,
        )

    @property
    def device(self) -> torch.device:
        """Where the embeddings live, and so where inputs belong."""
        weight: Tensor = self.model.get_input_embeddings().weight  # type: ignore[assignment]
        return weight.device

    @property
    def scale(self) -> PixelScale:
        """Of the tower's pixels."""
        return self.squares.scale

    def prepare(self, frames: Frames, question: str, features: Tensor | None = None) -> Inputs:
        """The first turn: system, video and its sound if the frames have it, question, and the opening of the answer.

        Args:
            features: [V, hidden], made of the frames before; then no pixels are prepared.
        """
        count = len(frames.pixels)
        grid = self.geometry.grid(count, *frames.pixels.shape[1:3])
        head = self.prompt.head_ids()
        banks = self._banks(frames)
        end = len(head) + grid[0] * grid[1] * grid[2]
        after = end if banks is None else end + BeatsSizes(**(self.model.config.audio_sizes or {})).tokens(*banks.shape)
        seen = [VIDEO] * (after - len(head))
        ids = torch.tensor([[*head, *seen, *self.prompt.question_ids(question)]], device=self.device)
        if features is None:
            pixels = self.squares.pixels(frames.pixels)
            if count == 1:  # a picture is a clip that stands still
                pixels = pixels.expand(self.model.config.num_frames, -1, -1, -1)
            vision = {"pixel_values_videos": pixels.to(self.device, self.model.dtype)}
        else:
            vision = {"video_features": features}
        if banks is not None:
            vision["audio_banks"] = banks.to(self.device)
        return Inputs(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=torch.arange(ids.shape[1], device=self.device)[None],
            next_position=ids.shape[1],
            layout=VideoLayout(ids.shape[1], torch.arange(len(head), end), grid, torch.arange(end, after)),
            features=vision,
            filled=torch.arange(len(head), after),
        )

    def prepare_several(self, clips: Sequence[Frames], question: str) -> Inputs:
        """Errors: UsageError, always."""
        raise one_video(self.name)

    def _banks(self, frames: Frames) -> Tensor | None:
        """The filter bank of the clip's sound; None: there is none, or it was not asked for."""
        if frames.sound is None:
            return None
        if not self.model.config.audio_sizes:
            raise UsageError(f"{self.name} hears nothing", "Leave out --audio, or take an audio-visual checkpoint.")
        if frames.sound.rate != RATE:
            raise UsageError(f"sound of {frames.sound.rate} samples a second", f"Decode it at {RATE}.")
        return features_of(frames.sound.samples)

    def after(self, talk: Talk) -> Self:
        """The same model, asked after these turns about the clip."""
        return replace(self, prompt=replace(self.prompt, talk=talk))

    def prefix_length(self, inputs: Inputs) -> int:
        """Tokens up to and including the end of the video: the same for every question about the clip."""
        return inputs.layout.after

    def tail(self, question: str) -> Tensor:
        """Ids [1, n] of the rest: the first `prefix_length` ids and these are the prompt of that question."""
        return torch.tensor([self.prompt.question_ids(question)], device=self.device)

    def follow_up(self, question: str, next_position: int) -> tuple[Tensor, Tensor]:
        """A later turn after a finished answer: (input_ids [1, n], position_ids [1, n])."""
        ids = torch.tensor([self.prompt.turn_ids(question)], device=self.device)
        return ids, torch.arange(next_position, next_position + ids.shape[1], device=self.device)[None]
