"""Qwen3-VL: nested config.json, time stamps between frames, deepstack."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from purekv_cli.video.frames import Frames
from tests.models.families import qwen2_5_vl
from tests.models.families.sample import CHATML, DECODER, Grid, grid_positions


def config(ids: Mapping[str, int]) -> dict[str, Any]:
    named = qwen2_5_vl.token_ids(ids)
    text = {name: named.pop(name) for name in ("vocab_size", "bos_token_id", "eos_token_id")}
    return {
        **named,
        "model_type": "qwen3_vl",
        "tie_word_embeddings": False,
        "text_config": {
            **DECODER,
            **text,
            "model_type": "qwen3_vl_text",
            "head_dim": 16,
            "hidden_act": "silu",
            "rope_theta": 5000000,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"},
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
    }


def video_text(frames: Frames, grid: Grid) -> str:
    """As `Qwen3VLProcessor` has it: the mean time of a pair of frames, the last one repeated where it is alone."""
    times = list(frames.times) + [frames.times[-1]] * (len(frames.times) % 2)
    pads = "<|video_pad|>" * (grid[1] * grid[2])
    pairs = zip(times[::2], times[1::2], strict=True)
    return "".join(f"<{(a + b) / 2:.1f} seconds><|vision_start|>{pads}<|vision_end|>" for a, b in pairs)


SAMPLE = replace(
    qwen2_5_vl.SAMPLE,
    architecture="Qwen3VLForConditionalGeneration",
    template=CHATML.replace("VIDEO", qwen2_5_vl.PLACEHOLDER),
    config=config,
    keys=(
        "model.visual.deepstack_merger_list.0.linear_fc1.weight",
        "model.language_model.layers.0.self_attn.q_norm.weight",
        "lm_head.weight",
    ),
    video_text=video_text,
    positions=lambda case: grid_positions(case, blocks=case.grid[0]),
    propagation="3:0.01",
    files={"video_preprocessor_config.json": {"size": {"longest_edge": 25165824, "shortest_edge": 4096}}},
)
