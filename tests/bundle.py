"""A tiny random Qwen2.5-VL as a folder with a released checkpoint's files: flat config.json, released key names.

It answers nonsense, quickly and always the same: enough to run everything around the model.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

from purekv_cli.demo import MODEL_DIR

LAYERS, HEADS, KV_HEADS, HEAD_DIM = 3, 4, 2, 16
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def released_config(vocabulary: int, ids: dict[str, int]) -> dict[str, Any]:
    """config.json as Qwen/Qwen2.5-VL-*-Instruct has it, with small numbers."""
    hidden = HEADS * HEAD_DIM
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "hidden_size": hidden,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": vocabulary,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": hidden,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
            "in_chans": 3,
            "hidden_act": "silu",
            "model_type": "qwen2_5_vl",
        },
    }


def write_bundle(folder: Path) -> Path:
    """Write the model's folder; the same bytes every time."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copy(MODEL_DIR / name, folder / name)
    table = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {token["content"]: token["id"] for token in table["added_tokens"]}
    vocabulary = max([*table["model"]["vocab"].values(), *ids.values()]) + 1
    (folder / "config.json").write_text(json.dumps(released_config(vocabulary, ids), indent=2))
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
        )
    )
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "pad_token_id": ids["<|endoftext|>"]})
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(AutoConfig.from_pretrained(folder))
    kept = (folder / "config.json").read_text()
    model.save_pretrained(folder)
    (folder / "config.json").write_text(kept)  # transformers writes its own layout; a release has the flat one
    names = load_file(folder / "model.safetensors").keys()
    assert {"visual.blocks.0.attn.qkv.weight", "model.layers.0.self_attn.q_proj.weight"} <= set(names)
    return folder
