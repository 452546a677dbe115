"""Sparse prefill is dense attention under the pattern's mask, for any grid, pattern and content."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purekv_cli.kernels.sparse_prefill import reference, sparse_prefill
from purekv_cli.method.config import SparseConfig
from purekv_cli.method.layout import VideoLayout
from purekv_cli.method.pattern import build
from tests.kernels.devices import TOLERANCE, on_each_device, probabilities, qkv


def layout_of(grid, before=3, after=4):
    video = grid[0] * grid[1] * grid[2]
    return VideoLayout(before + video + after, torch.arange(before, before + video), grid)


def check(runs, device, heads=4, kv_heads=2, batch=1):
    length = len(runs.order)
    query, key, value = qkv(device, heads, kv_heads, length, length, batch=batch)
    out, lse = sparse_prefill(query, key, value, runs, 0.3, need_lse=True)
    weights, want_lse = probabilities(query, key, 0.3, runs.dense_mask().to(device))
    want = weights @ value.double().repeat_interleave(heads // kv_heads, 1)
    torch.testing.assert_close(out.double(), want, atol=TOLERANCE[device], rtol=TOLERANCE[device])
    torch.testing.assert_close(lse.double(), want_lse, atol=TOLERANCE[device], rtol=TOLERANCE[device])


GRIDS = [(1, 3, 5), (6, 5, 7), (4, 1, 1), (9, 4, 4), (3, 9, 2)]


@on_each_device
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("batch", [1, 2])
def test_equals_dense_attention_under_the_mask(device, grid, batch):
    content = torch.rand(grid[0] * grid[1] * grid[2], generator=torch.Generator().manual_seed(3))
    check(build(layout_of(grid), SparseConfig(tile=(3, 4), recent=2), content), device, batch=batch)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_equals_dense_attention_under_any_mask(data):
    grid = tuple(data.draw(st.integers(1, most), label=name) for name, most in (("T", 8), ("H", 5), ("W", 6)))
    config = SparseConfig(
        tile=(data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))),
        halo=data.draw(st.integers(0, 2)),
        recent=data.draw(st.integers(0, 3)),
        content=data.draw(st.sampled_from([0.0, 0.1, 1.0])),
        first_frame=data.draw(st.booleans()),
    )
    content = torch.rand(grid[0] * grid[1] * grid[2], generator=torch.Generator().manual_seed(3))
    layout = layout_of(grid, data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4)))
    check(build(layout, config, content), "cpu")


@on_each_device
def test_tiny_batches_of_tiles_change_nothing(device, monkeypatch):
    monkeypatch.setattr(reference, "_GATHERED", {device: 1})
    check(build(layout_of((4, 5, 6)), SparseConfig(tile=(3, 4))), device)


@on_each_device
def test_a_prompt_without_video_is_dense(device):
    runs = build(VideoLayout(300, torch.zeros(0, dtype=torch.int64), (0, 0, 0)), SparseConfig())
    assert torch.equal(runs.dense_mask(), torch.ones(300, 300, dtype=torch.bool).tril())
    check(runs, device)


def test_lse_only_on_request():
    runs = build(layout_of((1, 2, 2)), SparseConfig())
    query, key, value = qkv("cpu", 2, 1, len(runs.order), len(runs.order))
    assert sparse_prefill(query, key, value, runs, 0.3)[1] is None
