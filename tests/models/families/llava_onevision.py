"""LLaVA-OneVision: SigLIP, a Qwen2 decoder, a newline after the video."""

from collections.abc import Mapping
from typing import Any

from purekv_cli.video.frames import Frames
from tests.models.families.sample import DECODER, Grid, Sample, plain_positions

SPECIAL = ("<|endoftext|>", "<|im_end|>", "<|im_start|>", "<image>", "<video>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {% for c in m.content %}{% if c.type == 'video' %}<video>"
    "{% endif %}{% endfor %}{% for c in m.content %}{% if c.type == 'text' %}{{ '\n' + c.text }}{% endif %}{% endfor %}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIGLIP = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SQUARE = {"image_size": 56, "patch_size": 14}


def config(ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        "model_type": "llava_onevision",
        "image_token_index": ids["<image>"],
        "video_token_index": ids["<video>"],
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": [[56, 56], [56, 112]],
        "tie_word_embeddings": False,
        "text_config": {**DECODER, "model_type": "qwen2", "vocab_size": ids[""], "rope_theta": 1000000.0},
        "vision_config": {**SIGLIP, **SQUARE, "model_type": "siglip_vision_model", "vision_use_head": False},
    }


def video_text(frames: Frames, grid: Grid) -> str:
    return "<video>" * (grid[0] * grid[1] * grid[2] + 1)


SAMPLE = Sample(
    architecture="LlavaOnevisionForConditionalGeneration",
    special=SPECIAL,
    template=TEMPLATE,
    config=config,
    keys=(
        "image_newline",
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        "multi_modal_projector.linear_1.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight",
    ),
    placeholder="<video>",
    video_text=video_text,
    positions=plain_positions,
    prompt_reopens=False,  # its template opens answers in two ways
    renames=("vision_tower.", "vision_tower.vision_model."),
    files={"video_preprocessor_config.json": {"size": {"height": 56, "width": 56}, "image_mean": [0.5, 0.5, 0.5]}},
)
