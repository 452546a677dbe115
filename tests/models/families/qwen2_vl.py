"""Qwen2-VL: flat config.json, a grid step is one position in time."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.models.families import qwen2_5_vl
from tests.models.families.sample import grid_positions


def config(ids: Mapping[str, int]) -> dict[str, Any]:
    vision = {"model_type": "qwen2_vl", "depth": 2, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2, "num_heads": 2}
    patches = {"in_chans": 3, "patch_size": 14, "spatial_patch_size": 14}
    vision |= patches | {"spatial_merge_size": 2, "temporal_patch_size": 2}
    return {**qwen2_5_vl.config(ids), "model_type": "qwen2_vl", "vision_config": vision}


SAMPLE = replace(
    qwen2_5_vl.SAMPLE,
    architecture="Qwen2VLForConditionalGeneration",
    config=config,
    keys=("visual.blocks.0.mlp.fc1.weight", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"),
    positions=grid_positions,
)
