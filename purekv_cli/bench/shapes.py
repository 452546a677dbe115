"""Models with random weights in the sizes of the released ones, built on the device: speed needs no download.

The sizes are those of the checkpoints' config.json. Weights are normal with a standard deviation of 0.02, as
transformers initialises them; attention is then nearly uniform, which no kernel and no policy of ours can profit from.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from purekv_cli.errors import OutOfResources, unknown
from purekv_cli.memory import free_memory

_VISION = {"hidden_size": 1280, "depth": 32, "num_heads": 16, "fullatt_block_indexes": [7, 15, 23, 31]}
_VOCABULARY = 152064


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of one model."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    vision_intermediate: int
    tied: bool = False  # whether the head is the embedding table

    @property
    def parameters(self) -> int:
        """Of the text decoder and its tables, the bulk of the model."""
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dim
        tables = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * (attention + 3 * self.hidden * self.intermediate) + tables

    def config(self) -> Qwen2_5_VLConfig:
        """As transformers takes it."""
        half = self.head_dim // 2
        sections = [half // 4, (half - half // 4) // 2, half - half // 4 - (half - half // 4) // 2]  # 16, 24, 24 of 64
        text: dict[str, Any] = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 2**20,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
            "tie_word_embeddings": self.tied,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }
        vision = {
            **(_VISION if self.head_dim == 128 else {"hidden_size": 32, "depth": 2, "num_heads": 2}),
            "intermediate_size": self.vision_intermediate,
            "out_hidden_size": self.hidden,
            "tokens_per_second": 2,
        }
        if self.head_dim != 128:
            vision["fullatt_block_indexes"] = [1]
        ids: dict[str, Any] = {name: 1 + at for at, name in enumerate(("vision_start_token_id", "vision_end_token_id"))}
        ids |= {"video_token_id": 3, "image_token_id": 4}
        return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=self.tied, **ids)


SHAPES = {
    "tiny": Shape(64, 128, 6, 4, 2, 16, 320, 64),
    "3b": Shape(2048, 11008, 36, 16, 2, 128, 151936, 3420, tied=True),
    "7b": Shape(3584, 18944, 28, 28, 4, 128, _VOCABULARY, 3420),
    "32b": Shape(5120, 27648, 64, 40, 8, 128, _VOCABULARY, 3456),
    "72b": Shape(8192, 29568, 80, 64, 8, 128, _VOCABULARY, 3456),
}


def shape(name: str) -> Shape:
    """The shape of that name."""
    if name not in SHAPES:
        raise unknown("shape", name, SHAPES)
    return SHAPES[name]


def build(name: str, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """A model of that shape with random weights.

    Raises:
        OutOfResources: it does not fit on the device.
    """
    sizes = shape(name)
    need, free = sizes.parameters * dtype.itemsize, _free(device)
    if free is not None and need > free:
        raise OutOfResources(
            f"the shape {name} needs {need / 2**30:.0f} GiB for its weights, and {free / 2**30:.0f} GiB are free",
            "Take a smaller --shape.",
        )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(seed)
    try:
        with device:
            model = Qwen2_5_VLForConditionalGeneration(sizes.config())
    finally:
        torch.set_default_dtype(before)
    model.set_attn_implementation("sdpa")
    return model.eval().requires_grad_(False)


def _free(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
