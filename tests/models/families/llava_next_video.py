"""LLaVA-NeXT-Video: CLIP, a Llama decoder whose sizes are left out of config.json, a tokenizer of Llama's kind."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, trainers

from purekv_cli.video.frames import Frames
from tests.models.families.llava_onevision import SIGLIP, SQUARE
from tests.models.families.sample import CORPUS, DECODER, Grid, Sample, plain_positions, save_tokenizer

SPECIAL = ("<unk>", "</s>", "<s>", "<image>", "<video>")
TEMPLATE = (
    "{% for m in messages %}{{ m.role.upper() }}: {% for c in m.content %}{% if c.type == 'video' %}<video>\n"
    "{% endif %}{% endfor %}{% for c in m.content %}{% if c.type == 'text' %}{{ c.text + ' ' }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def tokenizer(folder: Path, special: Sequence[str], template: str) -> dict[str, int]:
    """SentencePiece as Llama 2 has it: a space in front of all text, bytes for what is not known, <s> before all."""
    core = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    first = [*special[:3], *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=first, show_progress=False)
    core.train_from_iterator([text.strip() for text in CORPUS], trainer)
    names = {"bos_token": "<s>", "unk_token": "<unk>", "add_bos_token": True, "legacy": False}
    return save_tokenizer(core, folder, special, template, "LlamaTokenizer", **names)


def config(ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        "model_type": "llava_next_video",
        "image_token_index": ids["<image>"],
        "video_token_index": ids["<video>"],
        "projector_hidden_act": "gelu",
        "spatial_pool_mode": "average",
        "spatial_pool_stride": 2,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "image_grid_pinpoints": [[56, 112]],
        "tie_word_embeddings": False,
        "text_config": {**DECODER, "model_type": "llama", "vocab_size": ids[""]},
        "vision_config": {**SIGLIP, **SQUARE, "model_type": "clip_vision_model", "projection_dim": 32},
    }


def video_text(frames: Frames, grid: Grid) -> str:
    return "<video>" * (grid[0] * grid[1] * grid[2])


SAMPLE = Sample(
    architecture="LlavaNextVideoForConditionalGeneration",
    special=SPECIAL,
    template=TEMPLATE,
    config=config,
    keys=(
        "image_newline",
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "language_model.lm_head.weight",
    ),
    placeholder="<video>",
    video_text=video_text,
    positions=plain_positions,
    renames=("vision_tower.", "vision_tower.vision_model."),
    files={
        "preprocessor_config.json": {
            "size": {"shortest_edge": 56},
            "crop_size": {"height": 56, "width": 56},
            "do_center_crop": True,
        }
    },
    writes_tokenizer=tokenizer,
)
