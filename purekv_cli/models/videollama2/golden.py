"""A model without its tokenizer, asked for one tensor at a time, to be held against a reference implementation's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from purekv_cli.models.videollama2.checkpoint import from_weights
from purekv_cli.models.videollama2.config import VIDEO
from purekv_cli.models.videollama2.fbank import fbank
from purekv_cli.models.videollama2.model import VideoLlama2
from purekv_cli.models.videollama2.pixels import Squares
from purekv_cli.models.videollama2.tower import TowerFiles, find_tower


@dataclass(frozen=True, slots=True)
class Golden:
    """Methods have the names of the tensors in a golden set."""

    model: VideoLlama2
    squares: Squares

    @classmethod
    def of(cls, case: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> "Golden":
        """See `golden_adapter`."""
        config = case.get("config", case)
        vision, preprocessor = case.get("vision_config"), case.get("preprocessor_config")
        if vision is None or preprocessor is None:
            tower = find_tower(config)
        else:
            tower = TowerFiles(config["mm_vision_tower"], vision, preprocessor, None)
        model = from_weights(config, tower.vision, state_dict)
        return cls(model, Squares.from_config(tower.preprocessor, tower.side))

    def pixel_values(self, frames: NDArray[np.uint8], count: int | None = None, pad: bool = False) -> Tensor:
        """[T, 3, S, S] of frames [n, H, W, 3]; see `Squares.pixels`."""
        return self.squares.pixels(np.asarray(frames), count, pad)

    @torch.no_grad()
    def vision_features(self, pixel_values: Tensor) -> Tensor:
        """[T, N, C]."""
        return self.model.vision_features(pixel_values)

    @torch.no_grad()
    def connector_output(self, features: Tensor) -> Tensor:
        """[B, T' * H' * W', D] of features [B, T, N, C]."""
        tokens: Tensor = self.model.connector(features)
        return tokens

    def fbank(self, samples: Tensor) -> Tensor:
        """[frames, 128] of samples [n] at 16 kHz between -1 and 1, not yet rounded to bfloat16."""
        return fbank(samples)

    @torch.no_grad()
    def audio_features(self, bank: Tensor) -> Tensor:
        """What BEATs makes of a filter bank [frames, bins]: [A, C]."""
        features: Tensor = self.model.audio_tower(bank[None])
        return features[0]

    @torch.no_grad()
    def audio_output(self, bank: Tensor) -> Tensor:
        """The same behind its projector, [A, D]: these rows follow `connector_output` in the prompt."""
        return self.model.get_audio_features(bank)

    @torch.no_grad()
    def inputs_embeds(self, input_ids: Tensor, tokens: Tensor) -> Tensor:
        """[1, P - 1 + L, D]: the video index in `input_ids` [1, P] replaced by tokens [1, L, D]."""
        at = int((input_ids[0] == VIDEO).nonzero())
        text = self.model.get_input_embeddings()(input_ids.clamp(min=0))
        return torch.cat([text[:, :at], tokens, text[:, at + 1 :]], 1)

    @torch.no_grad()
    def logits(self, inputs_embeds: Tensor) -> Tensor:
        """[1, N, V]."""
        logits: Tensor = self.model(inputs_embeds=inputs_embeds).logits
        return logits

    @torch.no_grad()
    def greedy_tokens(self, inputs_embeds: Tensor, count: int) -> list[int]:
        """The likeliest continuation."""
        tokens: list[int] = []
        for _ in range(count):
            tokens.append(int(self.logits(inputs_embeds)[0, -1].argmax()))
            following = self.model.get_input_embeddings()(torch.tensor([tokens[-1:]]))
            inputs_embeds = torch.cat([inputs_embeds, following], 1)
        return tokens
