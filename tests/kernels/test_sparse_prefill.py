"""Sparse prefill is dense attention under the pattern's mask, for any grid, pattern, content and choice of rows."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purekv_cli import kernels
from purekv_cli.kernels.sparse_prefill import backends, explain, plan, reference, sparse_prefill
from purekv_cli.kernels.sparse_prefill.config import Config
from purekv_cli.kernels.sparse_prefill.plan import Plan
from purekv_cli.method import pattern
from purekv_cli.method.config import SparseConfig
from purekv_cli.method.layout import VideoLayout
from purekv_cli.method.pattern import build
from tests.kernels.devices import TOLERANCE, interpreted, on_each_device, probabilities, qkv
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


@settings(max_examples=25)
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


# The kernels for GPUs: Triton natively where there is one, in its interpreter else; `hopper` only natively.

TRITON_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def run_triton(*arguments, config=None):
    pytest.importorskip("triton")
    with interpreted():
        from purekv_cli.kernels.sparse_prefill.triton import sparse_prefill as run

        return run(*arguments, config=config)


def against_reference(run, runs, heads=2, kv_heads=1, dim=16, batch=1, dtype=torch.float32, laid_out="heads first"):
    """Outputs and LSE of a kernel against those of the plain version in float32."""
    length, rows = runs.length, len(runs.rows)
    q, k, v = qkv(TRITON_DEVICE, heads, kv_heads, rows, length, dim=dim, batch=batch)
    if laid_out == "tokens first":
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    if laid_out == "in one projection":
        whole = torch.cat([k, v], 1).transpose(1, 2).flatten(2).contiguous().view(batch, length, 2 * kv_heads, dim)
        k, v = whole.transpose(1, 2).chunk(2, 1)
    q, k, v = (x.to(dtype) for x in (q, k, v))
    out, lse = run(q, k, v, runs.to(TRITON_DEVICE), dim**-0.5, True)
    want, want_lse = reference.sparse_prefill(q.float(), k.float(), v.float(), runs, dim**-0.5, True)
    near = {torch.float32: TOLERANCE[TRITON_DEVICE], torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(out.float(), want, atol=near, rtol=near)
    near = 5e-6 if dtype == torch.float32 else 2e-3
    torch.testing.assert_close(lse, want_lse, atol=near, rtol=near)
    assert out.shape == q.shape
    assert out.transpose(1, 2).is_contiguous()
    assert run(q, k, v, runs.to(TRITON_DEVICE), dim**-0.5, False)[1] is None


def text(length):
    return VideoLayout(length, torch.zeros(0, dtype=torch.int64), (0, 0, 0))


@pytest.mark.parametrize("length", [1, 63, 64, 65, 127, 129])
def test_triton_at_lengths_around_its_blocks(length):
    against_reference(run_triton, build(text(length), SparseConfig()))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim"), [(2, 2, 64), (7, 1, 128), (8, 1, 16), (2, 1, 32), (3, 1, 80), (4, 2, 96)]
)
def test_triton_with_any_heads(heads, kv_heads, dim):
    layout = prompt((6, 2, 5), before=2, after=3)
    against_reference(run_triton, build(layout, SparseConfig(tile=(2, 3)), changed((6, 2, 5))), heads, kv_heads, dim)


@pytest.mark.parametrize("laid_out", ["heads first", "tokens first", "in one projection"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_triton_in_any_layout(laid_out, dtype):
    if dtype == torch.bfloat16 and TRITON_DEVICE == "cpu":
        pytest.skip("Triton's interpreter computes bfloat16 products in other steps")
    layout = prompt((5, 2, 4), before=0, after=0)
    runs = build(layout, SparseConfig(tile=(2, 3)), changed((5, 2, 4)))
    against_reference(run_triton, runs, 4, 2, 32, batch=2, dtype=dtype, laid_out=laid_out)


@pytest.mark.parametrize("grid", [(140, 1, 1), (15, 3, 3), (2, 9, 7), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("share", [None, 0.35, 0.0])
def test_triton_on_prompts_of_video(grid, share):
    """One-token frames, ragged tiles, empty runs, some rows only, none at all."""
    layout = prompt(grid, before=3, after=4, between=1)
    rows = None
    if share is not None:
        rows = torch.rand(layout.length, generator=torch.Generator().manual_seed(5)) < share
    against_reference(run_triton, build(layout, SparseConfig(tile=(2, 3)), changed(grid), rows=rows))


def test_triton_with_older_frames_at_a_stride():
    config = SparseConfig(tile=(2, 3), recent=2)
    against_reference(run_triton, build(prompt((20, 2, 3)), config, changed((20, 2, 3))))


@pytest.mark.parametrize(("rows", "keys"), [(16, 32), (64, 16), (128, 32), (32, 128)])
def test_triton_in_blocks_of_any_size(rows, keys):
    pytest.importorskip("triton")
    run = partial(run_triton, config=Config(rows, keys, 4, 1, tma=False))
    against_reference(run, build(prompt((12, 2, 3), before=1, after=0), SparseConfig(tile=(2, 2)), changed((12, 2, 3))))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiled for GPUs only")
@pytest.mark.parametrize("name", ["hopper", "triton"])
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("laid_out", ["heads first", "tokens first", "in one projection"])
@pytest.mark.parametrize("share", [None, 0.35])
def test_kernels_at_their_own_size(name, dim, laid_out, share):
    if name == "hopper" and torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("for compute capability 9.x")
    layout = prompt((9, 17, 23), before=14, after=40)
    rows = None
    if share is not None:
        rows = torch.rand(layout.length, generator=torch.Generator().manual_seed(5)) < share
    runs = build(layout, SparseConfig(), changed((9, 17, 23)), rows=rows)
    run = import_module(f"purekv_cli.kernels.sparse_prefill.{name}").sparse_prefill
    against_reference(run, runs, 14, 2, dim, batch=2, dtype=torch.bfloat16, laid_out=laid_out)


@pytest.mark.parametrize("size", [16, 128])
@pytest.mark.parametrize("grid", [(6, 5, 7), (20, 4, 5), (1, 1, 1), (0, 0, 0)], ids=str)
def test_a_plan_made_without_asking_the_device_is_the_same(size, grid, monkeypatch):
    layout = prompt(grid, before=3, after=4, between=1) if grid[0] else text(140)
    runs = build(layout, SparseConfig(tile=(3, 4)), changed(grid))
    exact = plan.plan(runs, size)
    assert runs.run_past.sum() <= runs.most_past
    assert (runs.run_length - runs.run_past).sum() <= runs.most_near
    monkeypatch.setattr(plan, "_most", lambda *_: (len(exact.block) + 7, len(exact.rest) + 9))
    roomy = plan.plan(replace(runs), size)
    for name in Plan.__dataclass_fields__:
        want, got = getattr(exact, name), getattr(roomy, name)
        assert torch.equal(got[: len(want)], want), name
    assert (len(roomy.block), len(roomy.rest)) == (len(exact.block) + 7, len(exact.rest) + 9)
    assert ((roomy.rest >= 0) & (roomy.rest < runs.length)).all()


@pytest.mark.parametrize("size", [16, 128])
def test_bounds_of_a_plan_hold(size):
    for grid in GRIDS:
        runs = build(prompt(grid, between=2), SparseConfig(tile=(2, 2)), changed(grid))
        blocks = runs.run_past // size
        assert blocks.sum() <= runs.most_past // size
        assert (runs.run_length - blocks * size).sum() <= runs.most_near + (size - 1) * len(blocks)


def test_only_what_is_allowed_runs(monkeypatch):
    runs = build(text(5), SparseConfig())
    query, key, value = qkv(TRITON_DEVICE, 2, 1, 5, 5)
    monkeypatch.setattr(kernels, "_allowed", "reference")
    assert backends.choose(query, key).name == "reference"
    monkeypatch.setattr(kernels, "_allowed", "auto")
    assert backends.choose(query, key).name == ("triton" if TRITON_DEVICE == "cuda" else "reference")
    sparse_prefill(query, key, value, runs, 0.3)


def test_every_kernel_says_why_it_does_not_run():
    rows = explain("cpu", torch.bfloat16)
    assert [name for name, _, _ in rows] == ["hopper", "triton", "reference"]
    assert [usable for _, usable, _ in rows] == [False, False, True]
    assert rows[1][2] == "runs on CUDA only"


def test_lse_only_on_request():
    runs = build(prompt((1, 2, 2)), SparseConfig())
    query, key, value = qkv("cpu", 2, 1, runs.length, runs.length)
    assert sparse_prefill(query, key, value, runs, 0.3)[1] is None


def test_kernels_fit_into_the_shared_memory_of_other_gpus():
    """Compiled for an A100 (163 KB a block), a 24 GB card (99 KB) and an H100 (227 KB), without any of them."""
    pytest.importorskip("triton")
    most = {"80": 163, "86": 99, "89": 99, "90": 227}
    targets = ["80:bf16:128", "86:fp16:64", "89:bf16:128", "90:bf16:128", "90:bf16:128:hopper", "90:fp16:64:hopper"]
    command = [sys.executable, "-m", "tests.kernels.compile_sparse_prefill", *targets]
    compiling = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    lines = subprocess.run(command, capture_output=True, text=True, check=True, env=compiling).stdout.splitlines()
    found = {line["target"]: line["shared"] for line in map(json.loads, lines)}
    assert list(found) == targets
    assert all(0 < shared <= most[target[:2]] * 1024 for target, shared in found.items()), found
