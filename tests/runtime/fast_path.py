"""One prompt through the stock path and through the fast prefill, and the same words after both.

Prompts are token embeddings without a vision tower, so that all families, their positions and layouts are compared on
what the decoder does.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig, SparseConfig
from purekv_cli.method.layout import VideoLayout
from purekv_cli.runtime.attach import Attached, attach
from purekv_cli.runtime.cache import CompactCache
from purekv_cli.runtime.fast_prefill import fast_prefill
from purekv_cli.runtime.prompt import Prompt
from purekv_cli.runtime.weights import read_weights
from tests.runtime.tiny import DEVICE, Clip, clip, positions

LAYERS, STEPS, TOLERANCE = 4, 5, 1e-5
SPARSE = SparseConfig(min_tokens=8, tile=(2, 2))


def method(policy: str = "purekv", budget: float = 0.6, **dials: Any) -> MethodConfig:
    settings: dict[str, Any] = {"score_layers": (0, 2), "sparse": SparseConfig(enabled=False)} | dials
    return MethodConfig(policy=policy, budget=Budget("fraction", budget), **settings)


def prompt_of(model: PreTrainedModel, cut: int = 0, **dials: Any) -> Clip:
    """Text, a video, a question; without the last `cut` tokens."""
    whole = clip(model, **({"frames": 8, "height": 84, "width": 112} | dials))
    ids = whole.inputs["input_ids"][:, : whole.length - cut]
    layout = VideoLayout(ids.shape[1], whole.layouts[0].video, whole.layouts[0].grid)
    return Clip({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, [layout], whole.seconds)


def angles(model: PreTrainedModel, prompts: Clip, length: int) -> Tensor:
    """Rotary positions of the prompt and what follows."""
    at = positions(model, prompts, length)
    return torch.arange(length, device=DEVICE)[None] if at is None else at


def embedded(model: PreTrainedModel, ids: Tensor) -> Tensor:
    return model.get_input_embeddings()(ids)


def stock(attached: Attached, prompts: Clip) -> tuple[Tensor, CompactCache]:
    cache = attached.new_cache(Prompt.of_layouts(prompts.layouts, DEVICE))
    embeds = embedded(attached.model, prompts.inputs["input_ids"])
    at = angles(attached.model, prompts, prompts.length)
    out = attached.decoder(inputs_embeds=embeds, position_ids=at, past_key_values=cache, use_cache=True)
    return out.last_hidden_state[:, -1:], cache


def fast(model: PreTrainedModel, prompts: Clip, config: MethodConfig, **given: Any) -> tuple[Tensor, CompactCache]:
    prompt = Prompt.of_layouts(prompts.layouts, DEVICE)
    cache = CompactCache(len(model.get_decoder().layers))
    cache.prompt = prompt
    embeds = embedded(model, prompts.inputs["input_ids"])
    at = angles(model, prompts, prompts.length)
    return fast_prefill(read_weights(model), embeds, at, prompt, config, cache, **given), cache


def decode(attached: Attached, prompts: Clip, hidden: Tensor, cache: CompactCache, words: list[int]) -> Tensor:
    """Logits after the prompt and after every one of `words`, [1, 1 + words, vocabulary], through the stock path."""
    head, at = attached.model.get_output_embeddings(), angles(attached.model, prompts, prompts.length + len(words))
    logits = [head(hidden)]
    for step, word in enumerate(words):
        out = attached.decoder(
            inputs_embeds=embedded(attached.model, torch.tensor([[word]], device=DEVICE)),
            position_ids=at[..., prompts.length + step : prompts.length + step + 1],
            past_key_values=cache,
            use_cache=True,
        )
        logits.append(head(out.last_hidden_state))
    return torch.cat(logits, 1)


def compare(model: PreTrainedModel, prompts: Clip, config: MethodConfig) -> CompactCache:
    """Prefill on both paths, decode on both caches; returns the fast one as it was after prefill."""
    words = [40, 41, 42, 43, 44][:STEPS]
    with torch.no_grad(), attach(model, config, layout=prompts.layouts) as attached:
        hidden, slow_cache = stock(attached, prompts)
        got, fast_cache = fast(model, prompts, config)
        for ours, theirs in zip(fast_cache.kept, slow_cache.kept, strict=True):
            assert torch.equal(ours, theirs)
        assert fast_cache.get_seq_length() == slow_cache.get_seq_length() == prompts.length
        assert fast_cache.kv_bytes() == slow_cache.kv_bytes()
        kept = fast(model, prompts, config)[1]
        want = decode(attached, prompts, hidden, slow_cache, words)
        have = decode(attached, prompts, got, fast_cache, words)
    torch.testing.assert_close(have, want, atol=TOLERANCE, rtol=0)
    return kept
