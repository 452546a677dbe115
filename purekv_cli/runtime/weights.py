"""The decoder's weights as the fast path reads them: transformers' own parameters, those that share an input fused.

q, k and v (and gate and up) become views of one larger tensor, in place: one product instead of three, no copy kept,
and the model goes on computing the same. A decoder that is not made of these parts is told so in words, and the stock
path runs it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

# Config types of decoders whose layers compute what `LayerWeights` says. Others may have the same parts and names but
# scale in between, leave out rotation in some layers or rotate other pairs, so a decoder is taken by its type.
_TEXT_OF = ("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "qwen2_5_omni_text")
KNOWN = ("qwen2", "qwen3", "llama", "mistral", *_TEXT_OF)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer: x + out(attention(norm(x))), then x + down(silu(gate(norm(x))) * up(norm(x)))."""

    attention_norm: Tensor  # [hidden]
    qkv: Tensor  # [(Hq + 2 Hkv) * D, hidden]: queries, keys, values
    qkv_bias: Tensor | None  # [(Hq + 2 Hkv) * D]
    q_norm: Tensor | None  # [D], RMS norm of every query head before rotation (Qwen3); None: none
    k_norm: Tensor | None  # [D]
    out: Tensor  # [hidden, Hq * D]
    mlp_norm: Tensor  # [hidden]
    gate_up: Tensor  # [2 * intermediate, hidden]: gate, then up
    down: Tensor  # [hidden, intermediate]


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """All layers and the head."""

    layers: tuple[LayerWeights, ...]
    norm: Tensor  # [hidden]
    head: Tensor  # [vocabulary, hidden]
    rotary: nn.Module  # (x, positions [3, B, n] or [B, n]) -> cos, sin [B, n, D] in x's dtype
    heads: int  # Hq
    kv_heads: int  # Hkv
    head_dim: int  # D
    epsilon: float  # of the norms

    @property
    def scaling(self) -> float:
        """Of the dot product of query and key."""
        return self.head_dim**-0.5

    @property
    def device(self) -> torch.device:
        return self.norm.device

    @property
    def dtype(self) -> torch.dtype:
        return self.norm.dtype


class Unsupported(Exception):
    """Why this decoder needs the stock path, in words for `doctor` and `-v`."""


def read_weights(model: PreTrainedModel) -> DecoderWeights:
    """The weights of the text decoder, fused on the first call.

    Raises:
        Unsupported: the decoder has other parts, is quantised, or is spread over devices.
    """
    decoder: Any = model.get_decoder()
    config = decoder.config
    head = model.get_output_embeddings()
    if config.model_type not in KNOWN:
        raise Unsupported(
            f"its layers are built differently, or may be: {config.model_type} is none of the known types"
        )
    if getattr(config, "hidden_act", None) != "silu":
        raise Unsupported(f"its activation is {getattr(config, 'hidden_act', None)}, not silu")
    if getattr(config, "sliding_window", None) is not None:
        raise Unsupported("it attends through a sliding window")
    parameters = list(decoder.parameters()) + ([head.weight] if head is not None else [])
    if len({p.device for p in parameters}) > 1 or any(p.device.type == "meta" for p in parameters):
        raise Unsupported("its layers lie on several devices")
    if len({p.dtype for p in parameters}) > 1 or not parameters[0].dtype.is_floating_point:
        raise Unsupported("its weights are quantised or of mixed types")
    try:
        layers = tuple(_read_layer(layer) for layer in decoder.layers)
        first: Any = decoder.layers[0]
        epsilon = float(getattr(first.input_layernorm, "variance_epsilon", None) or config.rms_norm_eps)
        head_dim = int(first.self_attn.head_dim)
        if 2 * decoder.rotary_emb.inv_freq.numel() != head_dim:
            raise Unsupported("it rotates only a part of every head")
        return DecoderWeights(
            layers=layers,
            norm=decoder.norm.weight.data,
            head=head.weight.data,  # type: ignore[union-attr]
            rotary=decoder.rotary_emb,
            heads=int(config.num_attention_heads),
            kv_heads=int(config.num_key_value_heads),
            head_dim=head_dim,
            epsilon=epsilon,
        )
    except AttributeError as error:
        raise Unsupported(f"its layers are built differently ({error})") from None


def _read_layer(layer: Any) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    if getattr(attention, "sliding_window", None) is not None:
        raise Unsupported("it attends through a sliding window")
    qkv, bias = _fused(attention.q_proj, attention.k_proj, attention.v_proj)
    gate_up, mlp_bias = _fused(mlp.gate_proj, mlp.up_proj)
    if mlp_bias is not None or any(part.bias is not None for part in (attention.o_proj, mlp.down_proj)):
        raise Unsupported("its other projections have a bias")
    return LayerWeights(
        attention_norm=layer.input_layernorm.weight.data,
        qkv=qkv,
        qkv_bias=bias,
        q_norm=_norm_weight(attention, "q_norm"),
        k_norm=_norm_weight(attention, "k_norm"),
        out=attention.o_proj.weight.data,
        mlp_norm=layer.post_attention_layernorm.weight.data,
        gate_up=gate_up,
        down=mlp.down_proj.weight.data,
    )


def _norm_weight(attention: Any, name: str) -> Tensor | None:
    norm = getattr(attention, name, None)
    return None if norm is None else norm.weight.data


def _fused(*linears: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """One tensor whose consecutive rows are the weights of all; each layer's parameter becomes a view of it."""
    if any(type(linear) is not nn.Linear for linear in linears):
        raise Unsupported("its projections are no plain linear layers")
    weights: list[Tensor] = [linear.weight for linear in linears]
    biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    if biases and len(biases) < len(linears):
        raise Unsupported("only some of its projections have a bias")
    return _joined(weights), _joined(biases) if biases else None


def _joined(parameters: list[Tensor]) -> Tensor:
    """Join the parameters along their first dimension, or find them joined already."""
    first = parameters[0].data
    rows = sum(p.shape[0] for p in parameters)
    end = first.data_ptr()
    together = True
    for p in parameters:
        together &= p.data_ptr() == end and p.is_contiguous()
        end += p.numel() * p.element_size()
    held = first.untyped_storage().nbytes() - first.storage_offset() * first.element_size()
    if together and held >= end - first.data_ptr():
        return first.as_strided((rows, *first.shape[1:]), first.stride())
    joined = torch.cat([p.data for p in parameters])
    start = 0
    for p in parameters:
        p.data = joined[start : start + p.shape[0]]
        start += p.shape[0]
    return joined
