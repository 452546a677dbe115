"""A tiny model dressed as an adapter, with a tokenizer of single bytes."""

from functools import cached_property
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from purekv_cli.models.base import Inputs
from purekv_cli.models.geometry import ModelGeometry
from tests.runtime.tiny import END, START, VIDEO, clip, positions, tiny_model

STOP = 4
TEMPLATE = [16, 17]  # after every question: the answer opens


def byte_tokenizer(extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Ids 0 to 19 are special, then one id a byte, then whole words."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [f"<s{i}>" for i in range(20)]
    vocabulary = {name: i for i, name in enumerate([*names, *alphabet, *extra])}
    core = Tokenizer(models.BPE(vocabulary, [], unk_token=names[0]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token=names[0], pad_token=names[0])
    tokenizer.add_special_tokens({"additional_special_tokens": names[1:]})
    return tokenizer


class TinyAdapter:
    name = family = "tiny"
    stop_ids = frozenset({STOP})

    def __init__(self, model: PreTrainedModel | None = None) -> None:
        self.model = model or tiny_model()
        self.tokenizer = byte_tokenizer()

    @cached_property
    def geometry(self) -> ModelGeometry:
        return ModelGeometry.from_config(self.model.config.to_dict())

    @property
    def device(self) -> torch.device:
        return self.model.device

    def inputs(self, question: str, **dials: Any) -> Inputs:
        """The prompt of a random clip and a question."""
        clipped = clip(self.model, question=0, **dials)
        ids = torch.cat([clipped.inputs["input_ids"].cpu(), self.tail(question)], 1)
        layout = clipped.layouts[0]
        at = positions(self.model, clipped, ids.shape[1])
        assert at is not None
        return Inputs(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=at.cpu(),
            next_position=int(at[1:].amax()) + 1,
            layout=type(layout)(ids.shape[1], layout.video, layout.grid),
            features={
                key: clipped.inputs[key]
                for key in ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts")
                if key in clipped.inputs
            },
        )

    def prefix_length(self, inputs: Inputs) -> int:
        return inputs.layout.after + 1  # with the token that closes the video

    def tail(self, question: str) -> Tensor:
        return torch.tensor([[*self.tokenizer.encode(question), *TEMPLATE]])

    def follow_up(self, question: str, next_position: int) -> tuple[Tensor, Tensor]:
        ids = torch.tensor([[STOP, *self.tokenizer.encode(question)]])
        return ids, torch.arange(next_position, next_position + ids.shape[1]).expand(4, 1, -1)


__all__ = ["END", "START", "STOP", "VIDEO", "TinyAdapter", "byte_tokenizer"]
