"""Arms whose prefill is another one: what they keep is read from the cache that the engine's own prefill leaves."""

import torch
from torch import Tensor

from purekv_cli.eval.arms import Arm
from purekv_cli.eval.replay_forward import Past
from purekv_cli.eval.replay_judge import ReadPrompt
from purekv_cli.eval.replay_prefill import Captured
from purekv_cli.method.policies import POLICIES
from purekv_cli.runtime.attach import attach
from purekv_cli.runtime.cache import CompactCache
from purekv_cli.runtime.embed import embed_tokens
from purekv_cli.runtime.fast_prefill import fast_prefill
from purekv_cli.runtime.weights import Unsupported


def prefills_itself(arm: Arm) -> bool:
    """Whether hidden states differ from those of a dense prefill: by the arm, or because the policy drops tokens."""
    return arm.sparse or arm.propagate is not None or getattr(POLICIES.get(arm.policy), "drops_tokens", False)


def own_prefill(clip: Captured, arm: Arm, text: Tensor, read: ReadPrompt) -> tuple[CompactCache, Tensor]:
    """The cache after the prefix and a text, int64 [n]; the last token's log-probabilities, float32 [1, vocabulary].

    Args:
        read: the same, read densely: as far as all tokens flow, and read everything, it isn't read again.

    Raises:
        UsageError: the budget does not even hold the text. Unsupported: this needs the fast prefill, and it can't.
    """
    embeds, positions, prompt = clip.embeds, read.positions, read.prompt
    if len(text):
        embeds = torch.cat([embeds, embed_tokens(clip.adapter.model, text[None])], 1)
    config = arm.of_model(clip.adapter.name)
    with attach(clip.adapter.model, config) as attached:
        cache = attached.new_cache(prompt)
        try:
            hidden = fast_prefill(clip.weights, embeds, positions, prompt, config, cache, known=read.states)
        except Unsupported:
            if config.propagate is not None:
                raise
            cache = attached.new_cache(prompt)
            out = attached.decoder(inputs_embeds=embeds, position_ids=positions, past_key_values=cache, use_cache=True)
            hidden = out.last_hidden_state[:, -1:]
    return cache, clip.logprobs(hidden[0])


def entries(cache: CompactCache, below: int | None = None) -> list[Past]:
    """What every layer holds; with `below` only the entries of prompt positions under it,"""
    if below is not None:
        cache.forget(below)
    pasts = []
    for layer in cache.layers:
        key, value, positions = layer.stored()
        pasts.append(Past(key, value, positions >= 0 if layer.has_holes else None))
    return pasts
