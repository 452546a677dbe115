"""What all adapters share: a family says how frames become pixels, text and positions; the rest is here.

A prompt is the system message, the video and then the question, so everything up to the end of the video is the same
for every question about a clip: `Inputs.prefix` tokens that several questions can share. The placeholder of the chat
template stands for text in which the family's video token is written once per run of video tokens.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from purekv_cli.errors import ModelUnavailable, UsageError
from purekv_cli.method.layout import VideoLayout
from purekv_cli.models.base import Inputs
from purekv_cli.models.geometry import ModelGeometry, one_video
from purekv_cli.models.preprocess import PixelScale, patches_of, squares_of
from purekv_cli.models.prompt import Prompt, Talk
from purekv_cli.video.frames import Frames

Grid = tuple[int, int, int]  # T, H, W, in video tokens


@dataclass(frozen=True, slots=True)
class Seen:
    """One clip as its family sees it."""

    features: dict[str, Tensor]  # of `Inputs`
    grid: Grid
    tokens_of_sound: int = 0
    more: tuple[Grid, ...] = ()  # of further clips, whose features follow


@dataclass(slots=True)
class VideoChat:
    """A loaded model with its tokenizer. Implements `base.Adapter`."""

    name: str
    geometry: ModelGeometry
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]
    prompt: Prompt
    scale: PixelScale
    video_id: int  # token that stands for one video token
    video_token: str  # the same, written
    family: str = ""

    placeholder: ClassVar[str] = "<video>"  # what the chat template writes for a video
    scaling: ClassVar[PixelScale] = PixelScale()  # where the preprocessor config leaves it out
    template: ClassVar[str | None] = None  # of the library, where that takes its own for videos; None: the checkpoint's
    after_video: ClassVar[str] = ""  # plain text between the video and what follows it in the template

    @classmethod
    def of(
        cls,
        name: str,
        folder: Path,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        geometry: ModelGeometry,
        preprocessor: Mapping[str, Any],
        family: str = "",
    ) -> Self:
        """Wrap a model and tokenizer that were loaded from `folder`."""
        video = cls.video_token_of(model.config)
        token = tokenizer.convert_ids_to_tokens(video)
        if not isinstance(token, str):
            raise ModelUnavailable(
                f"the tokenizer of {name} has no token {video}, which stands for video",
                "Its tokenizer files are missing or damaged: fetch it again.",
            )
        return cls(
            name=name,
            geometry=geometry,
            model=model,
            tokenizer=tokenizer,
            stop_ids=_stop_ids(model, tokenizer),
            prompt=Prompt.read(tokenizer, folder, cls.placeholder, cls.after_video, cls.template),
            scale=PixelScale.from_config(preprocessor, cls.scaling),
            video_id=video,
            video_token=token,
            family=family or str(model.config.model_type),
        )

    @classmethod
    def video_token_of(cls, config: Any) -> int:
        """Id of the token that stands for one video token."""
        return int(config.video_token_id)

    @property
    def audio_id(self) -> int | None:
        """Token that stands for one token of sound; None: the family hears nothing."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the embeddings live, and so where inputs belong."""
        weight: Tensor = self.model.get_input_embeddings().weight  # type: ignore[assignment]
        return weight.device

    def see(self, frames: Frames, features: Tensor | None) -> Seen:
        """The vision tower's inputs and the grid of video tokens; squares, unless the family says otherwise."""
        pixels = squares_of(frames.pixels, self.geometry, self.scale, self.device, self.model.dtype)
        return Seen({"pixel_values_videos": pixels[None]}, (len(pixels), self.geometry.cells, self.geometry.cells))

    def write(self, frames: Frames, seen: Seen) -> tuple[str, list[int]]:
        """What the prompt says in place of the placeholder, and how many tokens each one written in it stands for."""
        steps, rows, columns = seen.grid
        return self.video_token, [steps * rows * columns]

    def place(self, ids: Tensor, clips: Sequence[Frames], seen: Seen) -> Tensor:
        """Rotary positions of ids [1, N]: int64 [4, 1, N], the text row first, or [1, N] for plain ones."""
        return torch.arange(ids.shape[1])[None]

    def prepare(self, frames: Frames, question: str, features: Tensor | None = None) -> Inputs:
        """The first turn: system, video, question, and the opening of the answer.

        Args:
            features: [V, hidden], made of the frames while they were decoded; then no pixels are prepared.
        """
        if frames.sound is not None and self.audio_id is None:
            raise UsageError(f"{self.name} hears nothing", "Leave out --audio, or take an audio-visual checkpoint.")
        seen = self.see(frames, features)
        return self._inputs([frames], seen, [self.write(frames, seen)], question)

    def prepare_several(self, clips: Sequence[Frames], question: str) -> Inputs:
        """The same for several videos, one after the other in the prompt.

        Raises:
            UsageError: the family takes one.
        """
        if not self.geometry.several:
            raise one_video(self.name)
        each = [self.see(frames, None) for frames in clips]
        features = {name: torch.cat([seen.features[name] for seen in each]) for name in each[0].features}
        seen = Seen(features, each[0].grid, more=tuple(seen.grid for seen in each[1:]))
        return self._inputs(clips, seen, list(map(self.write, clips, each)), question)

    def _inputs(
        self, clips: Sequence[Frames], seen: Seen, written: Sequence[tuple[str, list[int]]], question: str
    ) -> Inputs:
        """The prompt of clips that were seen and written."""
        head = self.prompt.head_ids(*(text for text, _ in written))
        repeats = iter([run for _, runs in written for run in runs])
        stands = {self.video_id, self.audio_id}
        ids = [token for token in head for _ in range(next(repeats) if token in stands else 1)]
        prefix = len(ids)
        filled, heard = ((torch.tensor(ids) == token).nonzero()[:, 0] for token in (self.video_id, self.audio_id or -1))
        tokens = sum(steps * rows * columns for steps, rows, columns in (seen.grid, *seen.more))
        if len(filled) < tokens or len(heard) != seen.tokens_of_sound or next(repeats, None) is not None:
            raise ModelUnavailable(
                f"the chat template of {self.name} shows {len(filled)} video tokens, not {tokens}",
                "Its tokenizer or chat template does not belong to its config.json.",
            )
        row = torch.tensor([[*ids, *self.prompt.question_ids(question)]])
        positions = self.place(row, clips, seen)
        on_device = row.to(self.device)
        return Inputs(
            input_ids=on_device,
            attention_mask=torch.ones_like(on_device),
            position_ids=positions.to(self.device),
            next_position=int(positions[-3:].amax()) + 1,
            layout=VideoLayout(row.shape[1], filled[:tokens], seen.grid, heard, seen.more),
            features=seen.features,
            prefix=prefix,
            filled=filled if len(filled) > tokens else None,
        )

    def after(self, talk: Talk) -> Self:
        """The same model, asked after these turns about the clip."""
        later = copy(self)
        later.prompt = replace(self.prompt, talk=talk)
        return later

    def prefix_length(self, inputs: Inputs) -> int:
        """Tokens up to and including the end of the video: the same for every question about the clip."""
        return inputs.prefix

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

    def patches(self, frames: Frames, features: Tensor | None) -> tuple[dict[str, Tensor], Tensor, Grid]:
        """For towers of Qwen's kind: their input, the patch grid int64 [1, 3] on the CPU, and the grid of tokens.

        Frames whose sides are multiples of a cell were sized by the caller and stay as they are; others are resized
        to `geometry.frame_size`.
        """
        patches, grid, size = patches_of(
            frames.pixels, self.geometry, self.scale, self.device, self.model.dtype, needed=features is None
        )
        vision = {"video_features": features} if features is not None else {"pixel_values_videos": patches}
        cell = self.geometry.cell
        return vision, grid, (int(grid[0, 0]), size[0] // cell, size[1] // cell)


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """End-of-turn tokens: the generation config's and the tokenizer's."""
    listed = getattr(model.generation_config, "eos_token_id", None)
    stops = set(listed) if isinstance(listed, list) else {listed}
    stops.add(tokenizer.eos_token_id)
    return frozenset(stop for stop in stops if stop is not None)
