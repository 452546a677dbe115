"""The truth that pruning is held to: the full prompt in one forward, -inf where the pruned run had nothing to read.

What a query may read depends only on its position: an entry that was pruned is gone for every query from then on. So
one pass without any cache gives the logits of every decode step, of second turns and of beams.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from tests.runtime.tiny import Clip, positions

NEVER = 10**9


def gone_from(kept: list[Tensor], length: int, end: Callable[[int], int]) -> list[Tensor]:
    """From which query position on an entry is gone, per layer int64 [B, Hkv, length].

    Args:
        kept: per layer [B, Hkv, P], positions that stayed, -1 in holes.
        end: of an entry's position: the end of the prefill step that pruned it.
    """
    ends = torch.tensor([end(position) for position in range(length)])
    gone = []
    for places in kept:
        stays = torch.zeros(*places.shape[:2], length + 1, dtype=torch.bool, device=places.device)
        inside = (places >= 0) & (places < length)
        stays.scatter_(-1, places.masked_fill(~inside, length), True)
        gone.append(torch.where(stays[..., :length], NEVER, ends.to(places.device)))
    return gone


def masked_logits(
    model: PreTrainedModel,
    prompts: Clip,
    sequences: Tensor,
    gone: list[Tensor],
    pattern: list[Tensor | None] | None = None,
) -> Tensor:
    """Logits [B, S, vocabulary] of whole sequences under the mask.

    Args:
        sequences: int64 [B, S], prompt and what follows.
        gone: of `gone_from`.
        pattern: per layer bool [N, N], which keys a prompt row reads in prefill; None: all earlier ones.
    """
    total = sequences.shape[1]

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **given: Any) -> Any:
        groups = query.shape[1] // key.shape[1]
        row, column = torch.arange(total)[:, None], torch.arange(total)
        seen = (column <= row).to(query.device).expand(query.shape[0], key.shape[1], -1, -1).clone()
        left = gone[module.layer_idx]
        seen[..., : left.shape[-1]] &= row.to(query.device) < left[:, :, None]
        if pattern is not None and pattern[module.layer_idx] is not None:
            allowed = pattern[module.layer_idx]
            seen[..., : len(allowed), : len(allowed)] &= allowed.to(query.device)
        if mask is not None:
            seen &= mask[:, None, None, :].bool()
        seen |= torch.eye(total, dtype=torch.bool, device=query.device)  # padding rows must see something
        scores = query.float() @ key.repeat_interleave(groups, 1).float().mT * given["scaling"]
        scores = scores.masked_fill(~seen.repeat_interleave(groups, 1), float("-inf"))
        out = scores.softmax(-1) @ value.repeat_interleave(groups, 1).float()
        return out.to(query.dtype).transpose(1, 2).contiguous(), None

    AttentionInterface.register("masked_reference", attend)
    AttentionMaskInterface.register("masked_reference", lambda *_, attention_mask=None, **__: attention_mask)
    inputs = dict(prompts.inputs)
    extra = total - prompts.length
    inputs["input_ids"] = sequences
    inputs["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, extra), value=1)
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, extra))
    at = positions(model, prompts, total)
    if at is not None:
        inputs["position_ids"] = at
    text = model.get_decoder().config is not model.config
    before = model.get_decoder().config._attn_implementation
    model.set_attn_implementation({"text_config": "masked_reference"} if text else "masked_reference")
    try:
        with torch.no_grad():
            return model(**inputs, use_cache=False).logits
    finally:
        model.set_attn_implementation({"text_config": before} if text else before)
