"""Sparse prefill is dense attention under the pattern's mask, for any grid, pattern, content and choice of rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purekv_cli.kernels.sparse_prefill import reference, sparse_prefill
from purekv_cli.method import pattern
from purekv_cli.method.config import SparseConfig
from purekv_cli.method.layout import VideoLayout
from purekv_cli.method.pattern import build
from tests.kernels.devices import TOLERANCE, on_each_device, probabilities, qkv
from tests.method.pattern_rules import told
from tests.method.prompts import prompt


def changed(grid):
    return torch.rand(grid[0] * grid[1] * grid[2], generator=torch.Generator().manual_seed(3))


def check(runs, mask, device, heads=4, kv_heads=2, batch=1, dim=16):
    """Queries and outputs in the prompt's order, keys and values in that of keys: as the contract says."""
    query, key, value = qkv(device, heads, kv_heads, runs.length, runs.length, dim=dim, batch=batch)
    rows, keys = runs.rows.to(device), runs.key_order.to(device)
    out, lse = sparse_prefill(query[:, :, rows], key[:, :, keys], value[:, :, keys], runs, 0.3, need_lse=True)
    weights, want_lse = probabilities(query, key, 0.3, mask.to(device))
    want = weights @ value.double().repeat_interleave(heads // kv_heads, 1)
    torch.testing.assert_close(out.double(), want[:, :, rows], atol=TOLERANCE[device], rtol=TOLERANCE[device])
    torch.testing.assert_close(lse.double(), want_lse[:, :, rows], atol=TOLERANCE[device], rtol=TOLERANCE[device])
    assert out.transpose(1, 2).is_contiguous()


GRIDS = [(1, 3, 5), (6, 5, 7), (4, 1, 1), (9, 4, 4), (3, 9, 2)]


@on_each_device
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("batch", [1, 2])
def test_equals_dense_attention_under_the_mask(device, grid, batch, monkeypatch):
    monkeypatch.setattr(pattern, "ROWS", 7)
    layout, config = prompt(grid), SparseConfig(tile=(3, 4), recent=2)
    check(build(layout, config, changed(grid)), told(layout, config, changed(grid), tile_rows=7), device, batch=batch)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), tile_rows=st.integers(1, 9))
def test_equals_dense_attention_under_any_mask(data, tile_rows):
    grid = tuple(data.draw(st.integers(1, most), label=name) for name, most in (("T", 8), ("H", 5), ("W", 6)))
    config = SparseConfig(
        tile=(data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))),
        recent=data.draw(st.sampled_from([None, 0, 2])),
        content=data.draw(st.sampled_from([0.0, 0.1, 1.0])),
        first_frame=data.draw(st.booleans()),
    )
    layout = prompt(grid, data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4)))
    rows = data.draw(st.none() | st.sets(st.integers(0, layout.length - 1)).map(sorted))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pattern, "ROWS", tile_rows)
        wanted = None if rows is None else torch.tensor(rows, dtype=torch.int64)
        runs = build(layout, config, changed(grid), rows=wanted)
    check(runs, told(layout, config, changed(grid), rows, tile_rows), "cpu")


@on_each_device
def test_tiny_batches_of_tiles_change_nothing(device, monkeypatch):
    monkeypatch.setattr(reference, "_GATHERED", {device: 1})
    monkeypatch.setattr(pattern, "ROWS", 7)
    layout, config = prompt((4, 5, 6)), SparseConfig(tile=(3, 4))
    check(build(layout, config), told(layout, config, tile_rows=7), device)


@on_each_device
def test_a_prompt_without_video_is_dense(device):
    runs = build(VideoLayout(300, torch.zeros(0, dtype=torch.int64), (0, 0, 0)), SparseConfig())
    below = torch.ones(300, 300, dtype=torch.bool).tril()
    assert torch.equal(runs.dense_mask(), below)
    check(runs, below, device)


def test_lse_only_on_request():
    runs = build(prompt((1, 2, 2)), SparseConfig())
    query, key, value = qkv("cpu", 2, 1, runs.length, runs.length)
    assert sparse_prefill(query, key, value, runs, 0.3)[1] is None
