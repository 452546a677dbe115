"""What the contract test has to know of a family, and how a small checkpoint of it is written."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedModel

from purekv_cli.video.frames import Frames

Grid = tuple[int, int, int]
CORPUS = ["what happens in the video? system user assistant You are a helpful seconds Frame Time from\n\n"] * 9
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LAYERS = 4
DECODER: dict[str, Any] = {  # sizes of every sample's text decoder
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "max_position_embeddings": 4096,
}
CHATML = (  # what the plain templates of Qwen's descendants render
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'video' %}VIDEO{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Sample:
    """A family in small."""

    architecture: str
    special: Sequence[str]  # tokens of the tokenizer beside bytes and merges; the first two: end of text, end of turn
    template: str  # renders what the released chat template does
    config: Callable[[Mapping[str, int]], dict[str, Any]]  # config.json as released, from the ids of special tokens
    keys: Sequence[str]  # weights that a released checkpoint has by these names
    placeholder: str  # what the template writes for a video
    video_text: Callable[[Frames, Grid], str]  # what the library's processor makes of it, every token written out
    positions: Callable[["Case"], Tensor]  # rotary positions [axes, N] as the rule of the family says, token by token
    right_in_library: Callable[["Case"], Tensor] | None = None  # the library's, for a prompt where it is right
    files: Mapping[str, Any] = field(default_factory=dict)  # further JSON files of the folder
    model_class: str | None = None  # of transformers; None: the architecture
    writes_tokenizer: Callable[[Path, Sequence[str], str], dict[str, int]] | None = None
    renames: tuple[str, str] | None = None  # of weights: what transformers 5 writes, and what a release has
    unread: Sequence[str] = ()  # weights that a release has beside those of the model
    prompt_reopens: bool = True  # whether an answer begins after the same tokens in a prompt and in a conversation
    propagation: str = "2:0.01"

    def write(self, folder: Path) -> Path:
        """The folder, with random weights whose attention is sharpened, so that what is pruned shows."""
        folder.mkdir(parents=True)
        ids = (self.writes_tokenizer or write_tokenizer)(folder, self.special, self.template)
        config = {"architectures": [self.architecture], "dtype": "float32", **self.config(ids)}
        stops = [ids[name] for name in self.special[:2]]
        for name, content in {
            "config.json": config,
            "generation_config.json": {"eos_token_id": stops, "pad_token_id": stops[0]},
            "chat_template.json": {"chat_template": self.template},
            **self.files,
        }.items():
            (folder / name).write_text(json.dumps(content))
        torch.manual_seed(0)
        model = self.build(folder)
        released = (folder / "config.json").read_text()
        model.save_pretrained(folder)
        (folder / "config.json").write_text(released)  # transformers writes its own layout
        if self.renames is not None:
            ours, theirs = self.renames
            weights = load_file(folder / "model.safetensors")
            renamed = {name.replace(ours, theirs, 1): weight for name, weight in weights.items()}
            renamed |= {name: torch.zeros(1000, 1000) for name in self.unread}
            save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    def build(self, folder: Path) -> PreTrainedModel:
        """The model of a folder's config.json."""
        kind = getattr(transformers, self.model_class or self.architecture)
        model: PreTrainedModel = kind(kind.config_class.from_pretrained(folder))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.split(".")[-2] in ("q_proj", "k_proj") and "vis" not in name:
                    weight.mul_(8.0)
        return model


@dataclass(frozen=True)
class Case:
    """One prompt, for what a family has to say of it."""

    model: Any
    ids: Tensor  # int64 [1, N]
    video: list[int]  # positions of its video tokens
    grid: Grid
    features: Mapping[str, Tensor]
    seconds: float  # between frames
    audio: list[int] = field(default_factory=list)  # positions of its tokens of sound


def write_tokenizer(folder: Path, special: Sequence[str], template: str) -> dict[str, int]:
    """tokenizer.json and its config, byte level as Qwen's; returns the ids of the special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return save_tokenizer(tokenizer, folder, special, template, "Qwen2Tokenizer")


def save_tokenizer(
    tokenizer: Tokenizer, folder: Path, special: Sequence[str], template: str, kind: str, **more: Any
) -> dict[str, int]:
    """With the special tokens, as a release keeps it."""
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {token: tokenizer.token_to_id(token) for token in special}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "added_tokens_decoder": {str(index): {"content": token, **flags} for token, index in ids.items()},
        "bos_token": None,
        "eos_token": special[1],
        "pad_token": special[0],
        "tokenizer_class": kind,
        **more,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return {**ids, "": max(ids.values()) + 1}  # the empty name: the size of the vocabulary


def plain_positions(case: Case) -> Tensor:
    """Of families that count tokens."""
    return torch.arange(case.ids.shape[1])[None]


def grid_positions(case: Case, pace: float = 1.0, blocks: int = 1) -> Tensor:
    """Of Qwen's: text counts on from the largest position so far, a vision block spans time, rows and columns.

    Args:
        pace: temporal positions of a grid step. blocks: in how many blocks the video comes.
    """
    steps, height, width = case.grid
    inside = set(case.video)
    rows, following, seen, start = [], 0, 0, 0
    for place in range(case.ids.shape[1]):
        if place in inside:
            if seen % (steps * height * width // blocks) == 0:
                start = following
            step, cell = divmod(seen, height * width)
            row = [start + int(step % (steps // blocks) * pace), start + cell // width, start + cell % width]
            seen += 1
        else:
            row = [following] * 3
        following = max(following, *(value + 1 for value in row))
        rows.append(row)
    return torch.tensor(rows).T


def names_in(folder: Path) -> set[str]:
    """Of the weights of a checkpoint."""
    return set(load_file(folder / "model.safetensors"))
