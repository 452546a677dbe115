"""VideoLLaMA3: frames of any size one by one, time stamps, a Qwen2 decoder."""

from collections.abc import Mapping
from typing import Any

from purekv_cli.video.frames import Frames
from tests.models.families import qwen2_5_vl
from tests.models.families.llava_onevision import SIGLIP
from tests.models.families.sample import CHATML, DECODER, Grid, Sample, plain_positions


def config(ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        "model_type": "video_llama_3",
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "tie_word_embeddings": False,
        "text_config": {**DECODER, "model_type": "qwen2", "vocab_size": ids[""], "rope_theta": 1000000.0},
        "vision_config": {**SIGLIP, "hidden_size": 32, "patch_size": 14, "model_type": "video_llama_3_vision"},
    }


def video_text(frames: Frames, grid: Grid) -> str:
    pads = "<|video_pad|>" * (grid[1] * grid[2])
    return ",".join(f"Time {time:.1f}s:{pads}" for time in frames.times)


SAMPLE = Sample(
    architecture="VideoLlama3ForConditionalGeneration",
    special=qwen2_5_vl.SPECIAL,
    template=CHATML.replace("VIDEO", "<|video_pad|>\n"),
    config=config,
    keys=(
        "model.vision_model.encoder.layers.0.mlp.fc1.weight",
        "model.projector.readout.0.weight",
        "model.language_model.layers.0.self_attn.q_proj.weight",
    ),
    placeholder="<|video_pad|>",
    video_text=video_text,
    positions=plain_positions,
    files={"video_preprocessor_config.json": {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 1}},
)
