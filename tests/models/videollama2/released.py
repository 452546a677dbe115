"""A small random VideoLLaMA2 as a folder in the released layout, its vision tower in the hub's cache or inside.

The tokenizers are made on the fly: words of one byte, and the special tokens and chat templates of Mistral and Qwen2.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

from purekv_cli.models.videollama2.beats import Beats, BeatsSizes

SIZES = BeatsSizes(layers=2, width=16, heads=2, inner=24, embed=12, patch=64, buckets=320, kernel=6, groups=4)
DATA = Path(__file__).parents[2] / "data" / "videollama2"
CASES = json.loads((DATA / "golden.json").read_text())["cases"]
SPECIAL = {
    "mistral": ["<unk>", "<s>", "</s>"],
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
}
# The released template of Mistral-7B-Instruct-v0.2, which takes no system message.
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
QWEN = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer_of(kind: str, template: str | None = "own") -> PreTrainedTokenizerFast:
    """One id a byte after the special tokens."""
    special = SPECIAL[kind]
    names = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [], unk_token=special[0]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    begin, end = (special[1], special[2]) if kind == "mistral" else (None, special[2])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=begin, eos_token=end, pad_token=special[0])
    tokenizer.chat_template = {"mistral": MISTRAL, "qwen2": QWEN}[kind] if template == "own" else template
    return tokenizer


def random_ears(hidden: int) -> dict[str, Tensor]:
    """A small BEATs and its projector under the released names, heads and predictor that nothing reads among them."""
    torch.manual_seed(5)
    beats = Beats(SIZES)
    for weight in beats.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    weights = {f"model.audio_tower.{name}": tensor.clone() for name, tensor in beats.state_dict().items()}
    for index, name in enumerate(("weight_g", "weight_v")):
        at = "model.audio_tower.encoder.pos_conv.0."
        weights[at + name] = weights.pop(f"{at}parametrizations.weight.original{index}")
    table = "model.audio_tower.encoder.layers.{}.self_attn.relative_attention_bias.weight"
    weights[table.format(1)] = weights[table.format(0)].clone()
    weights["model.audio_tower.predictor.weight"] = torch.zeros(5, SIZES.width)
    for layer, inner in ((0, SIZES.width), (2, hidden)):
        weights[f"model.mm_projector_a.{layer}.weight"] = torch.randn(hidden, inner) * 0.1
        weights[f"model.mm_projector_a.{layer}.bias"] = torch.randn(hidden) * 0.1
    return weights


def write_released(folder: Path, case: str, cache: Path | None = None, *, audio: bool = False, **changes: Any) -> Path:
    """The folder; its weights are a golden set's, with a vocabulary that fits the tokenizer.

    Args:
        cache: the hub's cache; the tower's own repository goes there, and the checkpoint lacks the tower's weights.
        audio: with an audio encoder.
        changes: of config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = CASES[case]
    kind = "qwen2" if "qwen2" in case else "mistral"
    tokenizer = tokenizer_of(kind)
    tokenizer.save_pretrained(folder)
    weights = load_file(DATA / facts["weights"])
    draw = torch.Generator().manual_seed(3)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.randn(len(tokenizer), weights[name].shape[1], generator=draw) * 0.1
    tower = folder.parent / f"tower-{facts['vision_config']['model_type']}"
    prefix = "model.vision_tower.vision_tower."
    if cache is not None:
        home = cache / f"models--{facts['config']['mm_vision_tower'].replace('/', '--')}"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text("0123abc")
        tower = home / "snapshots" / "0123abc"
        changes.setdefault("mm_vision_tower", facts["config"]["mm_vision_tower"])
    tower.mkdir(parents=True, exist_ok=True)
    (tower / "config.json").write_text(json.dumps({"vision_config": facts["vision_config"]}))
    (tower / "preprocessor_config.json").write_text(json.dumps(facts["preprocessor_config"]))
    own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    if cache is not None:
        _save(own | {"text_model.other": torch.zeros(2)}, tower / "model.safetensors")
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(prefix)}
    _save(weights, folder / "model.safetensors")
    if audio:
        weights |= random_ears(weights["model.embed_tokens.weight"].shape[1])
        changes |= {"mm_audio_tower": "./audio_tower.bin", "mm_projector_a_type": "mlp2x_gelu", "mm_hidden_size_a": 16}
        _save(weights, folder / "model.safetensors")
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = {**facts["config"], **ids, "vocab_size": len(tokenizer), "mm_vision_tower": str(tower), **changes}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(ids))
    return folder


def write_mixtral(folder: Path) -> tuple[Path, MixtralForCausalLM]:
    """A checkpoint whose language model is Mixtral, and that language model as transformers has it."""
    path = write_released(folder / "model", "mistral_clip")
    config = json.loads((path / "config.json").read_text())
    config |= {"model_type": "videollama2_mixtral", "architectures": ["Videollama2MixtralForCausalLM"]}
    config |= {"num_local_experts": 3, "num_experts_per_tok": 2}
    (path / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    sizes = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    stock = MixtralForCausalLM(MixtralConfig(**sizes)).eval()
    stock.save_pretrained(folder / "stock")
    weights = load_file(path / "model.safetensors")
    seeing = {name: tensor for name, tensor in weights.items() if "vision_tower" in name or "mm_projector" in name}
    _save(seeing | load_file(folder / "stock" / "model.safetensors"), path / "model.safetensors")
    return path, stock


def _save(weights: dict[str, Tensor], path: Path) -> None:
    save_file(weights, path, metadata={"format": "pt"})
