"""A checkpoint in the layout of the released Qwen2.5-VL files, small and random, and a tokenizer with Qwen's tokens."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

_VISION = ["vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"]
_OTHER = ["object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start", "quad_end"]
SPECIAL = [f"<|{name}|>" for name in ("endoftext", "im_start", "im_end", *_OTHER, *_VISION)]

# The released chat_template.json of Qwen2.5-VL.
TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content %}"
    "{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}Picture {{ image_count.value }}: "
    "{% endif %}<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}{% if add_vision_id %}Video {{ video_count.value }}: "
    "{% endif %}<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_tokenizer(folder: Path) -> dict[str, int]:
    """tokenizer.json and tokenizer_config.json as released, with a template for plain text; returns the special ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(
        ["what happens in the video? system user assistant You are a helpful\n\n"] * 9, trainer
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(index): {"content": token, **flags} for token, index in ids.items()},
        "additional_special_tokens": SPECIAL[1:],
        "bos_token": None,
        "chat_template": "{% for message in messages %}{{ message['role'] + message['content'] }}{% endfor %}",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return ids


def released_config(ids: dict[str, int], tied: bool = False) -> dict[str, object]:
    """config.json with the fields of the released one, flat, at toy sizes."""
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 96,
        "max_position_embeddings": 128000,
        "max_window_layers": 3,
        "model_type": "qwen2_5_vl",
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.41.2",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": 2,
            "hidden_act": "silu",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "in_chans": 3,
            "out_hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
            "temporal_patch_size": 2,
        },
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vocab_size": 384,
    }


def released_weights(tied: bool = False) -> dict[str, torch.Tensor]:
    """Random weights under the released names (`visual.*`, `model.layers.*`, `lm_head.weight`)."""
    draw = torch.Generator().manual_seed(7)
    weights: dict[str, torch.Tensor] = {}

    def add(name: str, *shape: int) -> None:
        norm = len(shape) == 1 and name.endswith("weight")
        weights[name] = torch.ones(shape) if norm else torch.randn(shape, generator=draw) * 0.05

    add("visual.patch_embed.proj.weight", 32, 3, 2, 14, 14)
    for block in (f"visual.blocks.{index}" for index in range(2)):
        for norm in ("norm1", "norm2"):
            add(f"{block}.{norm}.weight", 32)
        for name, rows, columns in (("qkv", 96, 32), ("proj", 32, 32)):
            add(f"{block}.attn.{name}.weight", rows, columns)
            add(f"{block}.attn.{name}.bias", rows)
        for name, rows, columns in (("gate_proj", 48, 32), ("up_proj", 48, 32), ("down_proj", 32, 48)):
            add(f"{block}.mlp.{name}.weight", rows, columns)
            add(f"{block}.mlp.{name}.bias", rows)
    add("visual.merger.ln_q.weight", 32)
    for index, rows in ((0, 128), (2, 64)):
        add(f"visual.merger.mlp.{index}.weight", rows, 128)
        add(f"visual.merger.mlp.{index}.bias", rows)
    add("model.embed_tokens.weight", 384, 64)
    for layer in (f"model.layers.{index}" for index in range(3)):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            add(f"{layer}.{norm}.weight", 64)
        for name, rows in (("q_proj", 64), ("k_proj", 32), ("v_proj", 32)):
            add(f"{layer}.self_attn.{name}.weight", rows, 64)
            add(f"{layer}.self_attn.{name}.bias", rows)
        add(f"{layer}.self_attn.o_proj.weight", 64, 64)
        for name, rows, columns in (("gate_proj", 96, 64), ("up_proj", 96, 64), ("down_proj", 64, 96)):
            add(f"{layer}.mlp.{name}.weight", rows, columns)
    add("model.norm.weight", 64)
    if not tied:
        add("lm_head.weight", 384, 64)
    return {name: weight.bfloat16() for name, weight in weights.items()}


def write_checkpoint(folder: Path, tied: bool = False) -> Path:
    """A whole checkpoint folder, its weights in two shards."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = write_tokenizer(folder)
    weights = released_weights(tied)
    names = sorted(weights)
    shards = {
        f"model-0000{part + 1}-of-00002.safetensors": {name: weights[name] for name in names[part::2]}
        for part in (0, 1)
    }
    for file, content in shards.items():
        save_file(content, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, content in shards.items() for name in content}}
    preprocessor = {"min_pixels": 3136, "max_pixels": 12845056, "image_mean": [0.48145466, 0.4578275, 0.40821073]}
    for file, value in {
        "model.safetensors.index.json": index,
        "config.json": released_config(ids, tied),
        "generation_config.json": {"eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "do_sample": False},
        "chat_template.json": {"chat_template": TEMPLATE},
        "preprocessor_config.json": preprocessor,
    }.items():
        (folder / file).write_text(json.dumps(value))
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder; read only."""
    return write_checkpoint(tmp_path_factory.mktemp("released"))


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache of its own."""
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    return cache


def put_in_cache(cache: Path, repo: str, commit: str = "0123abc") -> Path:
    """A checkpoint in the layout of the hub's cache."""
    home = cache / f"models--{repo.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    return write_checkpoint(home / "snapshots" / commit)
