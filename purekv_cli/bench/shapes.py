"""Models with random weights in the sizes of the released ones, built on the device: speed needs no download.

The sizes are those of the checkpoints' config.json. Weights are normal with a standard deviation of 0.02, as
transformers initialises them; attention is then nearly uniform, which no kernel and no policy of ours can profit from.
The sizes of Qwen2.5-VL bring their vision tower. Of the other families it is the text decoder that is measured: their
prompts are embeddings, without what Qwen3-VL's tower adds above its first layers.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from purekv_cli.errors import OutOfResources, unknown
from purekv_cli.memory import free_memory

_VISION = {"hidden_size": 1280, "depth": 32, "num_heads": 16, "fullatt_block_indexes": [7, 15, 23, 31]}
_VOCABULARY = 152064
Kind = Literal["Qwen2_5_VL", "Qwen2VL", "Qwen3VL", "Qwen2", "Mistral", "Llama"]  # as transformers' classes begin


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
    vision_intermediate: int = 0
    tied: bool = False  # whether the head is the embedding table
    kind: Kind = "Qwen2_5_VL"

    @property
    def parameters(self) -> int:
        """Of the text decoder and its tables, the bulk of the model."""
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dim
        tables = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * (attention + 3 * self.hidden * self.intermediate) + tables

    @property
    def sees(self) -> bool:
        """Whether it is a model with a vision tower, or a text decoder alone."""
        return "VL" in self.kind

    def config(self) -> PretrainedConfig:
        """As transformers takes it."""
        text: dict[str, Any] = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": 2**20,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "tie_word_embeddings": self.tied,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }
        of_kind = getattr(transformers, f"{self.kind}Config")
        if not self.sees:
            alone: PretrainedConfig = of_kind(**text, **({"sliding_window": None} if self.kind == "Mistral" else {}))
            return alone
        half = self.head_dim // 2
        sections = [half // 4, (half - half // 4) // 2, half - half // 4 - (half - half // 4) // 2]  # 16, 24, 24 of 64
        text["rope_parameters"]["mrope_section"] = sections if self.kind != "Qwen3VL" else sections[::-1]
        ids: dict[str, Any] = {name: 1 + at for at, name in enumerate(("vision_start_token_id", "vision_end_token_id"))}
        ids |= {"video_token_id": 3, "image_token_id": 4}
        if self.kind != "Qwen3VL":
            del text["head_dim"]  # hidden / heads
        whole: PretrainedConfig = of_kind(
            text_config=text, vision_config=self._vision(), tie_word_embeddings=self.tied, **ids
        )
        return whole

    def _vision(self) -> dict[str, Any]:
        """Of Qwen2.5-VL as released; of others one block, which is never run."""
        if self.kind == "Qwen2VL":
            return {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": self.hidden}
        small: dict[str, Any] = {"depth": 1, "hidden_size": 32, "num_heads": 2, "out_hidden_size": self.hidden}
        if self.kind == "Qwen3VL":
            return {**small, "intermediate_size": 32, "num_position_embeddings": 16, "deepstack_visual_indexes": []}
        released = _VISION if self.head_dim == 128 else {**small, "depth": 2, "fullatt_block_indexes": [1]}
        own = {"intermediate_size": self.vision_intermediate, "out_hidden_size": self.hidden, "tokens_per_second": 2}
        return {**released, **own}


SHAPES = {
    "tiny": Shape(64, 128, 6, 4, 2, 16, 320, 64),
    "3b": Shape(2048, 11008, 36, 16, 2, 128, 151936, 3420, tied=True),
    "7b": Shape(3584, 18944, 28, 28, 4, 128, _VOCABULARY, 3420),
    "32b": Shape(5120, 27648, 64, 40, 8, 128, _VOCABULARY, 3456),
    "72b": Shape(8192, 29568, 80, 64, 8, 128, _VOCABULARY, 3456),
    "qwen2-vl-2b": Shape(1536, 8960, 28, 12, 2, 128, 151936, tied=True, kind="Qwen2VL"),
    "qwen2-vl-7b": Shape(3584, 18944, 28, 28, 4, 128, _VOCABULARY, kind="Qwen2VL"),
    "qwen3-vl-4b": Shape(2560, 9728, 36, 32, 8, 128, 151936, tied=True, kind="Qwen3VL"),
    "qwen3-vl-8b": Shape(4096, 12288, 36, 32, 8, 128, 151936, kind="Qwen3VL"),
    "videollama2-7b": Shape(4096, 14336, 32, 32, 8, 128, 32000, kind="Mistral"),
    "videollama2.1-7b": Shape(3584, 18944, 28, 28, 4, 128, _VOCABULARY, kind="Qwen2"),
    "llava-onevision-7b": Shape(3584, 18944, 28, 28, 4, 128, _VOCABULARY, kind="Qwen2"),
    "llava-next-video-7b": Shape(4096, 11008, 32, 32, 32, 128, 32064, kind="Llama"),
    "internvl3-8b": Shape(3584, 18944, 28, 28, 4, 128, 151674, kind="Qwen2"),
    "smolvlm2-2.2b": Shape(2048, 8192, 24, 32, 32, 64, 49280, kind="Llama"),
    "videollama3-7b": Shape(3584, 18944, 28, 28, 4, 128, _VOCABULARY, kind="Qwen2"),
}


def shape(name: str) -> Shape:
    """The shape of that name."""
    if name not in SHAPES:
        raise unknown("shape", name, SHAPES)
    return SHAPES[name]


def build(name: str, device: torch.device, dtype: torch.dtype, seed: int = 0) -> PreTrainedModel:
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
    kind = getattr(transformers, f"{sizes.kind}{'ForConditionalGeneration' if sizes.sees else 'ForCausalLM'}")
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(seed)
    try:
        with device:
            model: PreTrainedModel = kind(sizes.config())
    finally:
        torch.set_default_dtype(before)
    model.set_attn_implementation("sdpa")
    return model.eval().requires_grad_(False)


def _free(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
