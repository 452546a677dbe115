"""Mass inside a sparse layer against the written-out softmax under the list's mask."""

import pytest
import torch

from purekv_cli.kernels.attention_mass.listed import listed_mass
from purekv_cli.kernels.sparse_prefill import sparse_prefill
from purekv_cli.method import pattern
from purekv_cli.method.config import SparseConfig
from purekv_cli.method.pattern import build
from tests.kernels.devices import TOLERANCE, on_each_device, probabilities, qkv
from tests.method.prompts import prompt


@on_each_device
@pytest.mark.parametrize("reduce", ["sum", "max"])
@pytest.mark.parametrize("which", ["every row", "some video rows", "none"])
@pytest.mark.parametrize("given", ["lse given", "lse on the spot"])
def test_equals_the_softmax_under_the_lists_mask(device, reduce, which, given, monkeypatch):
    monkeypatch.setattr(pattern, "ROWS", 7)  # small tiles: several of them in a small frame
    layout = prompt((5, 4, 6))
    runs = build(layout, SparseConfig(tile=(2, 3), recent=1, content=0.0))
    query, key, value = qkv(device, 6, 2, layout.length, layout.length)
    seen, order = runs.dense_mask().to(device), runs.key_order.to(device)
    rows = {
        "every row": torch.ones(layout.length, dtype=torch.bool),
        "some video rows": torch.arange(layout.length) % 5 == 4,
        "none": torch.zeros(layout.length, dtype=torch.bool),
    }[which].to(device)
    assert seen.sum() < seen.new_ones(seen.shape).tril().sum(), "the list must leave something out"
    _, lse = sparse_prefill(query, key[:, :, order], value[:, :, order], runs, 0.4, need_lse=given == "lse given")
    weights = (probabilities(query, key, 0.4, seen)[0] * rows[:, None]).unflatten(1, (2, 3))
    want = weights.sum((2, 3)) if reduce == "sum" else weights.amax((2, 3))
    got = listed_mass(query, key[:, :, order], runs, 0.4, rows, lse, reduce)
    torch.testing.assert_close(got.double(), want, atol=TOLERANCE[device], rtol=TOLERANCE[device])
