"""The attention function that transformers calls in the text decoder, and its mask function.

transformers hands an attention function the layer's module and its q, k, v, but not the cache. What belongs to the
forward in progress is therefore an attribute of the attention modules, set by `attach` and gone with it; nothing is
global. The names must not contain "flash": modules take that as a promise of other mask semantics.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from purekv_cli.errors import UsageError
from purekv_cli.kernels.attention import attention
from purekv_cli.runtime.cache import CompactCache
from purekv_cli.runtime.prefill import Prefill

NAME = "purekv"
STATE = "purekv_state"  # attribute of the attention modules while a model is attached


@dataclass(slots=True)
class AttentionState:
    """The forward in progress, shared by all attention modules of one model."""

    cache: CompactCache | None = None
    prefill: Prefill | None = None  # None: a continuation or a decode step


def purekv_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention over a compact cache; in prefill the layer is pruned before this returns.

    Args:
        query: [B, Hq, n, D]. key, value: [B, Hkv, P, D], all entries of the layer.
        attention_mask: bool [B, tokens so far] by logical position, from `logical_mask`; None: nothing is padded.

    Returns:
        [B, n, Hq, D] and None (attention weights are never stored).
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if attention_mask is not None and attention_mask.dim() != 2:
        raise UsageError("attention masks of four dimensions are not supported", "Pass a 2-D attention_mask.")
    state: AttentionState | None = getattr(module, STATE, None)
    if state is None or state.cache is None:
        mask = None if attention_mask is None else attention_mask[:, None, None, : key.shape[2]]
        out, _lse = attention(query, key, value, scale, causal=query.shape[2] > 1, mask=mask)
        return out.transpose(1, 2).contiguous(), None
    index = int(module.layer_idx)  # type: ignore[arg-type]
    layer = state.cache.layers[index]
    if sliding_window is not None and layer.get_seq_length() > sliding_window:
        raise UsageError(
            f"layer {index} attends through a sliding window of {sliding_window} tokens, the prompt is longer",
            "Use a model without sliding-window attention, or fewer frames.",
        )
    if state.prefill is not None:
        out = state.prefill.attend(layer, index, query, key, value, attention_mask, scale)
    else:
        mask = layer.readable(attention_mask)
        out, _lse = attention(query, key, value, scale, causal=query.shape[2] > 1, mask=mask)
    return out.transpose(1, 2).contiguous(), None


def logical_mask(*_: Any, attention_mask: Tensor | None = None, **__: Any) -> Tensor | None:
    """The 2-D mask as it is: bool [B, logical length]; None when nothing is padded."""
    if attention_mask is None or bool(attention_mask.all()):
        return None
    return attention_mask.bool()


def register() -> None:
    """Make both known to transformers; doing it again changes nothing."""
    AttentionInterface.register(NAME, purekv_attention)
    AttentionMaskInterface.register(NAME, logical_mask)
