"""The truth that pruning is held to: the whole prompt in one plain forward, -inf where the pruned run had nothing.

Layer by layer in float32 and with the full scores in memory: for a gate's tiny model only.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

NAME = "purekv_masked"
SEEN = "purekv_seen"  # attribute of an attention module: bool [Hkv, S, S], which keys every row reads


def masks(
    kept: list[Tensor], prompt: int, total: int, flowing_from: int | None, pattern: Tensor | None = None
) -> list[Tensor]:
    """Which keys every row reads, per layer bool [Hkv, total, total].

    Args:
        kept: per layer int64 [1, Hkv, P], positions in the cache after prefill, -1 in holes.
        flowing_from: the layer from which on only the tokens that are kept there flow; None: all flow everywhere.
        pattern: bool [prompt, prompt], which keys a prompt row reads in the layers below; None: all before it.
    """
    device = kept[0].device
    causal = torch.ones(total, total, dtype=torch.bool, device=device).tril()
    seen = []
    for index, places in enumerate(kept):
        heads = places.shape[1]
        stays = torch.zeros(heads, total + 1, dtype=torch.bool, device=device)
        stays.scatter_(1, places[0].masked_fill((places[0] < 0) | (places[0] >= prompt), total), True)
        stays = stays[:, :total].clone()
        stays[:, prompt:] = True
        rows = causal.expand(heads, -1, -1).clone()
        first = 0 if flowing_from is not None and index >= flowing_from else prompt
        rows[:, first:] &= stays[:, None]
        if pattern is not None and (flowing_from is None or index < flowing_from):
            rows[:, :prompt, :prompt] &= pattern
        rows |= torch.eye(total, dtype=torch.bool, device=device)  # tokens that ended below must see something
        seen.append(rows)
    return seen


def masked_logits(model: PreTrainedModel, embeds: Tensor, positions: Tensor, seen: list[Tensor], last: int) -> Tensor:
    """Logits [last, vocabulary] of the last rows of [1, S, hidden] under the masks."""
    decoder: Any = model.get_decoder()
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)
    before = decoder.config._attn_implementation
    model.set_attn_implementation({"text_config": NAME})
    try:
        for layer, rows in zip(decoder.layers, seen, strict=True):
            setattr(layer.self_attn, SEEN, rows)
        hidden = decoder(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state
        head: Any = model.get_output_embeddings()
        logits: Tensor = head(hidden[0, -last:])
        return logits
    finally:
        for layer in decoder.layers:
            if hasattr(layer.self_attn, SEEN):
                delattr(layer.self_attn, SEEN)
        model.set_attn_implementation({"text_config": before})


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    groups = query.shape[1] // key.shape[1]
    seen = getattr(module, SEEN).repeat_interleave(groups, 0)
    scores = query.float() @ key.repeat_interleave(groups, 1).float().mT * scaling
    out = scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value.repeat_interleave(groups, 1).float()
    return out.to(query.dtype).transpose(1, 2).contiguous(), None
