"""Qwen2.5-VL: flat config.json, time in seconds."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from purekv_cli.video.frames import Frames
from tests.models.families.sample import CHATML, DECODER, Case, Grid, Sample, grid_positions

PLACEHOLDER = "<|vision_start|><|video_pad|><|vision_end|>"
SPECIAL = ("<|endoftext|>", "<|im_end|>", "<|im_start|>", "<|vision_start|>", "<|vision_end|>")
SPECIAL += ("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
TEMPLATE = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + CHATML.replace("VIDEO", PLACEHOLDER)
BOUNDS = {"preprocessor_config.json": {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "merge_size": 2}}


def config(ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        **DECODER,
        **token_ids(ids),
        "model_type": "qwen2_5_vl",
        "hidden_act": "silu",
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": False,
        "sliding_window": 32768,
        "use_sliding_window": False,
        "max_window_layers": 4,
        "vision_config": {
            "model_type": "qwen2_5_vl",
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
    }


def token_ids(ids: Mapping[str, int]) -> dict[str, int]:
    """As all of Qwen's config.json name them."""
    return {
        "vocab_size": ids[""],
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
    }


def video_text(frames: Frames, grid: Grid) -> str:
    return "<|vision_start|>" + "<|video_pad|>" * (grid[0] * grid[1] * grid[2]) + "<|vision_end|>"


def rope_index(case: Case) -> Tensor:
    """The library's own."""
    names = ("video_grid_thw", "second_per_grid_ts", "mm_token_type_ids")
    given = {name: case.features[name].cpu() for name in names if name in case.features}
    at: Tensor = case.model.model.get_rope_index(input_ids=case.ids, **given)[0]
    return at[:, 0]


SAMPLE = Sample(
    architecture="Qwen2_5_VLForConditionalGeneration",
    special=SPECIAL,
    template=TEMPLATE,
    config=config,
    keys=("visual.blocks.0.attn.qkv.weight", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"),
    placeholder=PLACEHOLDER,
    video_text=video_text,
    positions=lambda case: grid_positions(case, pace=2 * 2 * case.seconds),
    right_in_library=rope_index,
    files=BOUNDS,
)
