"""Fused weights are the model's own: it computes the same afterwards, and reading them twice copies nothing."""

import pytest
import torch
from torch import nn

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


def test_other_parts_are_named() -> None:
    model = tiny_model()
    model.get_decoder().layers[0].mlp.gate_proj = nn.Sequential(model.get_decoder().layers[0].mlp.gate_proj)
    with pytest.raises(Unsupported, match="no plain linear layers"):
        read_weights(model)
