"""InternVL3: its own vision tower, a Qwen2 decoder, numbered frames."""

from collections.abc import Mapping
from typing import Any

from purekv_cli.video.frames import Frames
from tests.models.families.llava_onevision import SIGLIP
from tests.models.families.sample import CHATML, DECODER, Grid, Sample, plain_positions

SPECIAL = ("<|endoftext|>", "<|im_end|>", "<|im_start|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")


def config(ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        "model_type": "internvl",
        "image_token_id": ids["<IMG_CONTEXT>"],
        "image_seq_length": 4,
        "downsample_ratio": 0.5,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
        "text_config": {**DECODER, "model_type": "qwen2", "vocab_size": ids[""], "rope_theta": 1000000.0},
        "vision_config": {**SIGLIP, "model_type": "internvl_vision", "image_size": [56, 56], "patch_size": [14, 14]},
    }


def video_text(frames: Frames, grid: Grid) -> str:
    image = "<img>" + "<IMG_CONTEXT>" * (grid[1] * grid[2]) + "</img>"
    return "\n".join(f"Frame{number}: {image}" for number in range(1, grid[0] + 1))


SAMPLE = Sample(
    architecture="InternVLForConditionalGeneration",
    special=SPECIAL,
    template=CHATML.replace("VIDEO", "<video>\n"),
    config=config,
    keys=(
        "vision_tower.encoder.layer.0.attention.q_proj.weight",
        "multi_modal_projector.linear_1.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight",
    ),
    placeholder="<video>",
    video_text=video_text,
    positions=plain_positions,
    files={"video_preprocessor_config.json": {"size": {"height": 56, "width": 56}}},
)
