"""What pruning is held to: the library's own forward of the whole sequence, -inf where the pruned run had nothing."""

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from purekv_cli.models.base import Adapter, Inputs

torch.backends.cudnn.allow_tf32 = False  # else a GPU rounds the convolutions of vision towers to ten bits


def forward(adapter: Adapter, inputs: Inputs, more: list[int], seen: list[Tensor] | None = None) -> Tensor:
    """Logits [S, vocabulary] of prompt and `more` tokens, from pixels on, through the model as transformers has it.

    Args:
        seen: per layer bool [Hkv, S, S], which keys every row reads; None: all before it, by the stock kernels.
    """
    model: Any = adapter.model
    ids = torch.cat([inputs.input_ids, inputs.input_ids.new_tensor([more])], 1)
    known = inspect.signature(model.forward).parameters
    given = {name: value for name, value in inputs.features.items() if name in known}
    if "mm_token_type_ids" in given:
        given["mm_token_type_ids"] = torch.nn.functional.pad(given["mm_token_type_ids"], (0, len(more)))
    given |= {"attention_mask": torch.ones_like(ids), "position_ids": continued(inputs, len(more))}
    with torch.no_grad():
        if seen is None:
            return model(input_ids=ids, use_cache=False, **given).logits[0]
        return _masked(model, seen, {"input_ids": ids, **given})


def continued(inputs: Inputs, count: int) -> Tensor:
    """Rotary positions of the prompt and `count` tokens after it."""
    at, length = inputs.position_ids, inputs.input_ids.shape[1]
    more = torch.arange(inputs.next_position, inputs.next_position + count, device=at.device)
    if at.dim() == 2:
        return torch.cat([at, more[None]], 1)
    rows = more.expand(4, 1, -1).clone()
    rows[0] = torch.arange(length, length + count)
    return torch.cat([at, rows], -1)


def _masked(model: Any, seen: list[Tensor], given: dict[str, Tensor]) -> Tensor:
    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **how: Any) -> tuple[Tensor, None]:
        groups = query.shape[1] // key.shape[1]
        scores = query @ key.repeat_interleave(groups, 1).mT * how["scaling"]
        scores = scores.masked_fill(~seen[module.layer_idx].repeat_interleave(groups, 0), float("-inf"))
        out = scores.softmax(-1) @ value.repeat_interleave(groups, 1)
        return out.transpose(1, 2).contiguous(), None

    AttentionInterface.register("contract_truth", attend)
    AttentionMaskInterface.register("contract_truth", lambda *_, **__: None)
    before = model.get_decoder().config._attn_implementation
    model.set_attn_implementation({"text_config": "contract_truth"})
    try:
        logits: Tensor = model(use_cache=False, **given).logits[0]
        return logits
    finally:
        model.set_attn_implementation({"text_config": before})
