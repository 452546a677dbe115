"""SmolVLM2: SigLIP with pixel shuffle, a Llama decoder, time stamps and a count in words."""

from collections.abc import Mapping
from typing import Any

from purekv_cli.video.frames import Frames
from tests.models.families.llava_onevision import SIGLIP, SQUARE
from tests.models.families.sample import DECODER, Grid, Sample, plain_positions

SPECIAL = ("<|im_end|>", "<end_of_utterance>", "<|im_start|>", "<image>", "<video>")
SPECIAL += ("<fake_token_around_image>", "<global-img>")
TEMPLATE = (
    "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}{% if m.content[0].type == 'image' %}:{% else %}: "
    "{% endif %}{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% elif c.type == 'KIND' %}<KIND>"
    "{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
WORDS = {1: "one", 2: "two", 5: "five", 6: "six", 16: "sixteen"}


def config(ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        "model_type": "smolvlm",
        "image_token_id": ids["<image>"],
        "scale_factor": 2,
        "tie_word_embeddings": False,
        "text_config": {
            **DECODER,
            "model_type": "llama",
            "vocab_size": ids[""],
            "pad_token_id": ids["<|im_end|>"],
            "rope_theta": 130000.0,
        },
        "vision_config": {**SIGLIP, **SQUARE, "model_type": "smolvlm_vision"},
    }


def video_text(frames: Frames, grid: Grid) -> str:
    image = "<fake_token_around_image><global-img>" + "<image>" * (grid[1] * grid[2]) + "<fake_token_around_image>"
    text = f"You are provided the following series of {WORDS[grid[0]]} frames from a "
    text += f"0:00:0{int(frames.times[-1])} [H:MM:SS] video.\n"
    return text + "".join(f"\nFrame from 00:0{int(time)}:{image}" for time in frames.times) + "\n\n"


SAMPLE = Sample(
    architecture="SmolVLMForConditionalGeneration",
    special=SPECIAL,
    template=TEMPLATE.replace("KIND", "video"),  # the library's: the checkpoint's knows images only
    config=config,
    keys=(
        "model.vision_model.encoder.layers.0.mlp.fc1.weight",
        "model.connector.modality_projection.proj.weight",
        "model.text_model.layers.0.self_attn.q_proj.weight",
        "lm_head.weight",
    ),
    placeholder="<video>",
    video_text=video_text,
    positions=plain_positions,
    files={
        "preprocessor_config.json": {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 56}},
        "chat_template.json": {"chat_template": TEMPLATE.replace("KIND", "image")},
    },
)
