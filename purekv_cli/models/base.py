"""What every model family offers: the contract between frames and the engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from purekv_cli.method.layout import VideoLayout
from purekv_cli.models.geometry import ModelGeometry
from purekv_cli.models.preprocess import PixelScale
from purekv_cli.models.prompt import Talk
from purekv_cli.video.frames import Frames


@dataclass(frozen=True, slots=True)
class Inputs:
    """One prompt, ready for the model: B = 1, N tokens."""

    input_ids: Tensor  # int64 [1, N]
    attention_mask: Tensor  # int64 [1, N]
    position_ids: Tensor  # int64 [4, 1, N]: the text row, then t, h, w (1-D families: [1, N])
    next_position: int  # rotary position of the first generated token
    layout: VideoLayout
    features: Mapping[str, Tensor]  # the towers' inputs, by the names the model's forward takes; when the vision tower
    # has run already, its output "video_features" [V, hidden] in place of the pixels
    prefix: int = 0  # tokens up to and including the end of the video; 0: the adapter knows
    filled: Tensor | None = None  # int64 [n], positions that the tower's output fills where they are more than the
    # video's tokens (a newline at the end); None: the video's


class Adapter(Protocol):
    """A loaded model with its tokenizer, and how to talk to it."""

    name: str  # as the user would write it: "demo", "Qwen/Qwen2.5-VL-7B-Instruct", a folder
    family: str  # "qwen2_5_vl"
    geometry: ModelGeometry
    scale: PixelScale
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]

    @property
    def device(self) -> torch.device: ...

    def prepare(self, frames: Frames, question: str, features: Tensor | None = None) -> Inputs:
        """The first turn: system, video, question, and the opening of the answer.

        Args:
            features: what the tower made of these frames, [V, hidden], where it ran while they were decoded; then no
                pixels are prepared.
        """
        ...

    def prepare_several(self, clips: Sequence[Frames], question: str) -> Inputs:
        """The same for several videos, one after the other in the prompt.

        Raises:
            UsageError: the family takes one.
        """
        ...

    def after(self, talk: Talk) -> Self:
        """The same model, asked after these turns about the clip: questions and their answers."""
        ...

    def prefix_length(self, inputs: Inputs) -> int:
        """Tokens up to and including the end of the video: the same for every question about the clip."""
        ...

    def tail(self, question: str) -> Tensor:
        """Ids [1, n] of the rest: the first `prefix_length` ids and these are the prompt of that question."""
        ...

    def follow_up(self, question: str, next_position: int) -> tuple[Tensor, Tensor]:
        """A later turn after a finished answer: (input_ids [1, n], position_ids) that close it and ask again."""
        ...
