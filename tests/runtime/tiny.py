"""Tiny random models of every family, prompts for them, and the rotary rule written out plainly."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from purekv_cli.method.layout import VideoLayout

torch.backends.cudnn.allow_tf32 = False  # else a GPU rounds the convolution of stock vision towers to ten bits
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
START, END, VIDEO, IMAGE = 5, 6, 7, 8  # token ids
VOCABULARY = 320
VIDEO_FAMILIES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")
TEXT_FAMILIES = ("llama", "mistral")


def tiny_model(family: str = "qwen2_5_vl", layers: int = 4, seed: int = 0) -> PreTrainedModel:
    """A model with sharpened attention, so that what is pruned shows in the logits."""
    torch.manual_seed(seed)
    text: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if family in TEXT_FAMILIES:
        model: PreTrainedModel
        if family == "llama":
            model = LlamaForCausalLM(LlamaConfig(**text))
        else:
            model = MistralForCausalLM(MistralConfig(**text, sliding_window=None))
    else:
        text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
        ids = {"image_token_id": IMAGE, "video_token_id": VIDEO}
        ids |= {"vision_start_token_id": START, "vision_end_token_id": END}
        patches = {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "depth": 1, "num_heads": 2}
        if family == "qwen2_5_vl":
            vision = patches | {"hidden_size": 32, "intermediate_size": 32, "out_hidden_size": 64}
            vision |= {"window_size": 112, "fullatt_block_indexes": [0], "tokens_per_second": 2}
            model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))
        elif family == "qwen2_vl":
            vision = patches | {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
            model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids))
        else:
            vision = patches | {"hidden_size": 32, "intermediate_size": 32, "out_hidden_size": 64}
            vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
            model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **ids))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "visual" not in name and ("q_proj.weight" in name or "k_proj.weight" in name):
                parameter.mul_(6.0)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    return model.eval().to(DEVICE)


@dataclass(frozen=True)
class Clip:
    """A batch of prompts: what the model takes, and what is true of them."""

    inputs: dict[str, Tensor]
    layouts: list[VideoLayout]
    seconds: float

    @property
    def length(self) -> int:
        return self.inputs["input_ids"].shape[1]


def clip(
    model: PreTrainedModel,
    frames: int = 6,
    height: int = 84,
    width: int = 112,
    question: int = 7,
    seed: int = 1,
    seconds: float = 1.0,
) -> Clip:
    """Text, a video, a question. 6 frames of 84 x 112 are 3 x 3 x 4 tokens."""
    generator = torch.Generator().manual_seed(seed)
    t, h, w = frames // 2, height // 28, width // 28
    family = model.config.model_type

    def words(count: int) -> list[int]:
        return torch.randint(20, 300, (count,), generator=generator).tolist()

    if family == "qwen3_vl":  # time stamps part the frames
        ids = words(4)
        for _ in range(t):
            ids += [*words(3), START, *[VIDEO] * (h * w), END]
        ids += words(question)
    else:
        ids = [*words(4), START, *[VIDEO] * (t * h * w), END, *words(question)]
    tokens = torch.tensor([ids])
    layout = VideoLayout(len(ids), (tokens[0] == VIDEO).nonzero().flatten(), (t, h, w))
    inputs: dict[str, Tensor] = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if family not in TEXT_FAMILIES:
        patches = t * h * w * 4
        inputs["pixel_values_videos"] = torch.randn(patches, 3 * 2 * 14 * 14, generator=generator)
        inputs["video_grid_thw"] = torch.tensor([[t, h * 2, w * 2]])
        inputs["mm_token_type_ids"] = (tokens == VIDEO).long() * 2
    if family == "qwen2_5_vl":
        inputs["second_per_grid_ts"] = torch.tensor([seconds])
    return Clip({key: value.to(DEVICE) for key, value in inputs.items()}, [layout], seconds)


def batch(*clips: Clip) -> Clip:
    """Several prompts padded on the left."""
    longest = max(c.length for c in clips)
    joined: dict[str, Tensor] = {}
    for key in clips[0].inputs:
        parts = [c.inputs[key] for c in clips]
        if key in ("input_ids", "attention_mask", "mm_token_type_ids"):
            parts = [torch.nn.functional.pad(part, (longest - part.shape[1], 0)) for part in parts]
        joined[key] = torch.cat(parts)
    return Clip(joined, [layout for c in clips for layout in c.layouts], clips[0].seconds)


def positions(model: PreTrainedModel, prompts: Clip, length: int) -> Tensor | None:
    """Rotary positions of prompts and `length` tokens in all, token by token as the rule says: [4, B, length] or None.

    Text counts on from the largest position so far; a vision block starts there, too, and spans time, rows, columns.
    """
    family = model.config.model_type
    if family in TEXT_FAMILIES:
        return None
    pace = 2.0 * prompts.seconds if family == "qwen2_5_vl" else 1.0
    rows = []
    for ids, layout in zip(prompts.inputs["input_ids"], prompts.layouts, strict=True):
        pad = len(ids) - layout.length
        _, h, w = layout.grid
        out, following, seen = [[1, 1, 1, 1]] * pad, 0, 0
        block, start = -1, 0
        for place in range(layout.length + length - len(ids)):
            if place < layout.length and int(ids[pad + place]) == VIDEO:
                step, cell = divmod(seen, h * w)
                inside = step if family != "qwen3_vl" else 0
                new = step if family == "qwen3_vl" else 0
                if new != block:
                    block, start = new, following
                row = [int(inside * pace) + start, cell // w + start, cell % w + start]
                seen += 1
            else:
                row = [following] * 3
            following = max(following, *[value + 1 for value in row])
            out.append([place, *row])
        rows.append(out)
    return torch.tensor(rows).permute(2, 0, 1).to(DEVICE)
