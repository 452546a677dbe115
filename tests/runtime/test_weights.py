"""Fused weights are the model's own: it computes the same afterwards, and reading them twice copies nothing."""

import pytest
import torch
from torch import nn
from transformers import Ernie4_5Config, Ernie4_5ForCausalLM

from purekv_cli.runtime.weights import Unsupported, read_weights
from tests.runtime.tiny import tiny_model


def test_the_model_computes_the_same_after_fusing() -> None:
    model = tiny_model()
    ids = torch.tensor([[5, 6, 7, 8, 9]], device=model.device)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        weights = read_weights(model)
        assert torch.equal(model(input_ids=ids).logits, before)
    layer, fused = model.get_decoder().layers[0], weights.layers[0]
    rows = layer.self_attn.q_proj.weight.shape[0]
    assert torch.equal(fused.qkv[:rows], layer.self_attn.q_proj.weight)
    assert torch.equal(fused.gate_up[-layer.mlp.up_proj.weight.shape[0] :], layer.mlp.up_proj.weight)
    assert fused.qkv_bias is not None
    assert fused.qkv_bias.shape[0] == fused.qkv.shape[0]


def test_reading_twice_copies_nothing() -> None:
    model = tiny_model()
    first, second = read_weights(model), read_weights(model)
    assert first.layers[1].qkv.data_ptr() == second.layers[1].qkv.data_ptr()
    assert first.layers[1].gate_up.shape == second.layers[1].gate_up.shape


def test_a_decoder_of_another_type_is_refused_though_its_parts_have_the_same_names() -> None:
    """ERNIE 4.5 rotates neighbouring pairs: read as Llama's, its answers would be wrong without a word."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = Ernie4_5ForCausalLM(Ernie4_5Config(**sizes, intermediate_size=96, vocab_size=320, head_dim=16))
    with pytest.raises(Unsupported, match="ernie4_5 is none of the known types"):
        read_weights(model)


def test_partial_rotation_is_refused() -> None:
    model = tiny_model("llama")
    model.get_decoder().rotary_emb.inv_freq = torch.ones(4)
    with pytest.raises(Unsupported, match="part of every head"):
        read_weights(model)


def test_other_parts_are_named() -> None:
    model = tiny_model()
    model.get_decoder().layers[0].mlp.gate_proj = nn.Sequential(model.get_decoder().layers[0].mlp.gate_proj)
    with pytest.raises(Unsupported, match="no plain linear layers"):
        read_weights(model)
