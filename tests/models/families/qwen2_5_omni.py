"""Qwen2.5-Omni: the thinker inside a config.json and a checkpoint that hold the whole model."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from purekv_cli.video.frames import Frames
from tests.models.families import qwen2_5_vl
from tests.models.families.sample import CHATML, DECODER, Case, Grid, Sample, grid_positions

PLACEHOLDER = "<|vision_bos|><|VIDEO|><|vision_eos|>"
SPECIAL = ("<|endoftext|>", "<|im_end|>", "<|im_start|>", "<|vision_bos|>", "<|vision_eos|>", "<|IMAGE|>", "<|VIDEO|>")
SPECIAL += ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")


def config(ids: Mapping[str, int]) -> dict[str, Any]:
    vision = qwen2_5_vl.config({**ids, **dict.fromkeys(qwen2_5_vl.SPECIAL, 0)})["vision_config"]
    thinker = {
        "model_type": "qwen2_5_omni_thinker",
        "audio_token_index": ids["<|AUDIO|>"],
        "image_token_index": ids["<|IMAGE|>"],
        "video_token_index": ids["<|VIDEO|>"],
        "audio_start_token_id": ids["<|audio_bos|>"],
        "audio_end_token_id": ids["<|audio_eos|>"],
        "vision_start_token_id": ids["<|vision_bos|>"],
        "vision_end_token_id": ids["<|vision_eos|>"],
        "position_id_per_seconds": 25,
        "seconds_per_chunk": 2,
        "audio_config": {
            "model_type": "qwen2_5_omni_audio_encoder",
            "d_model": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 16,
            "num_mel_bins": 8,
            "output_dim": 64,
        },
        "text_config": {
            **DECODER,
            "model_type": "qwen2_5_omni_text",
            "vocab_size": ids[""],
            "rope_theta": 1000000.0,
            "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [2, 3, 3]},
            "tie_word_embeddings": False,
        },
        "vision_config": {**vision, "model_type": "qwen2_5_omni_vision_encoder"},
    }
    return {"model_type": "qwen2_5_omni", "enable_audio_output": False, "thinker_config": thinker}


def video_text(frames: Frames, grid: Grid) -> str:
    return "<|vision_bos|>" + "<|VIDEO|>" * (grid[0] * grid[1] * grid[2]) + "<|vision_eos|>"


def rope_index(case: Case) -> Tensor:
    """The library's own."""
    at: Tensor = case.model.get_rope_index(
        input_ids=case.ids,
        video_grid_thw=case.features["video_grid_thw"].cpu(),
        attention_mask=torch.ones_like(case.ids),
        second_per_grids=case.features["video_second_per_grid"].cpu(),
    )[0]
    return at[:, 0]


SAMPLE = Sample(
    architecture="Qwen2_5OmniModel",
    special=SPECIAL,
    template=CHATML.replace("VIDEO", PLACEHOLDER),
    config=config,
    keys=(
        "thinker.visual.blocks.0.attn.q.weight",
        "thinker.audio_tower.conv1.weight",
        "thinker.model.layers.0.self_attn.q_proj.weight",
        "thinker.lm_head.weight",
    ),
    placeholder=PLACEHOLDER,
    video_text=video_text,
    positions=lambda case: grid_positions(case, pace=2 * 25 * case.seconds),
    right_in_library=rope_index,
    files=qwen2_5_vl.BOUNDS,
    model_class="Qwen2_5OmniThinkerForConditionalGeneration",
    renames=("", "thinker."),
)
