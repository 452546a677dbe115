"""Qwen2.5-Omni: the thinker inside a config.json and a checkpoint that hold the whole model."""

from collections.abc import Mapping
from math import ceil
from typing import Any

import torch
from torch import Tensor

from purekv_cli.video.frames import Frames
from tests.models.families import qwen2_5_vl
from tests.models.families.sample import CHATML, DECODER, Case, Grid, Sample, grid_positions

PLACEHOLDER = "<|vision_bos|><|VIDEO|><|vision_eos|>"
SPECIAL = ("<|endoftext|>", "<|im_end|>", "<|im_start|>", "<|vision_bos|>", "<|vision_eos|>", "<|IMAGE|>", "<|VIDEO|>")
SPECIAL += ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
MEL = {  # as released, but for 128 bins of 300 s
    "feature_extractor_type": "WhisperFeatureExtractor",
    "chunk_length": 30,
    "feature_size": 8,
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": 480000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "dither": 0.0,
    "return_attention_mask": True,
    "sampling_rate": 16000,
}


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
    """Of so many seconds of sound 25 tokens each, two seconds of picture and of sound in turn."""
    cells, step = grid[1] * grid[2], 2 * frames.seconds_per_frame
    if frames.sound is None:
        return "<|vision_bos|>" + "<|VIDEO|>" * (grid[0] * cells) + "<|vision_eos|>"
    seconds = len(frames.sound.samples) / frames.sound.rate
    text = ""
    for start in range(0, max(ceil(seconds), ceil(grid[0] * step)), 2):
        text += "<|VIDEO|>" * (cells * sum(start <= number * step < start + 2 for number in range(grid[0])))
        text += "<|AUDIO|>" * int(25 * min(max(0, seconds - start), 2))
    return f"<|vision_bos|><|audio_bos|>{text}<|audio_eos|><|vision_eos|>"


def positions(case: Case) -> Tensor:
    """Sound counts on from the start of its block, whatever picture lies between; so does the picture."""
    if not case.audio:
        return grid_positions(case, pace=2 * 25 * case.seconds)
    _, height, width = case.grid
    first, last = case.video[0], max(*case.video, *case.audio)
    rows = [[place] * 3 for place in range(first - 1)] + [[first - 2] * 3]
    for place in range(first, last + 1):
        if place in case.audio:
            rows.append([first - 1 + case.audio.index(place)] * 3)
        else:
            step, cell = divmod(case.video.index(place), height * width)
            inside = int(step * 2 * 25 * case.seconds), cell // width, cell % width
            rows.append([first - 1 + value for value in inside])
    end = max(map(max, rows)) + 1
    rows += [[end] * 3] + [[end + place] * 3 for place in range(case.ids.shape[1] - last - 2)]
    return torch.tensor(rows).T


def rope_index(case: Case) -> Tensor:
    """The library's own."""
    lengths = case.features.get("feature_attention_mask")
    at: Tensor = case.model.get_rope_index(
        input_ids=case.ids,
        video_grid_thw=case.features["video_grid_thw"].cpu(),
        attention_mask=torch.ones_like(case.ids),
        second_per_grids=case.features["video_second_per_grid"].cpu(),
        use_audio_in_video=lengths is not None,
        audio_seqlens=None if lengths is None else lengths.sum(-1).cpu(),
    )[0]
    return at[:, 0]


SAMPLE = Sample(
    architecture="Qwen2_5OmniModel",
    special=SPECIAL,
    template="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + CHATML.replace("VIDEO", PLACEHOLDER),
    config=config,
    keys=(
        "thinker.visual.blocks.0.attn.q.weight",
        "thinker.audio_tower.conv1.weight",
        "thinker.model.layers.0.self_attn.q_proj.weight",
        "thinker.lm_head.weight",
    ),
    placeholder=PLACEHOLDER,
    video_text=video_text,
    positions=positions,
    right_in_library=rope_index,
    files={"preprocessor_config.json": qwen2_5_vl.BOUNDS["preprocessor_config.json"] | MEL},
    model_class="Qwen2_5OmniThinkerForConditionalGeneration",
    renames=("", "thinker."),
    unread=("talker.model.embed_tokens.weight", "token2wav.code2wav_dit_model.text_embed.codec_embed.weight"),
)
