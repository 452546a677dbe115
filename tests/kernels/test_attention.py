"""Attention and its LSE against softmax written out in float64, whatever kernel the dispatcher takes."""

import pytest
import torch

from purekv_cli.kernels import attention as kernel
from purekv_cli.kernels.attention import attention, backends, explain, reference
from tests.kernels.devices import TOLERANCE, causal, on_each_device, probabilities, qkv

HEADS = [(4, 4), (6, 2), (7, 1)]
SIZES = [(1, 1), (1, 63), (63, 63), (5, 70), (130, 130), (129, 257)]


def expected(query, key, value, scaling, seen):
    weights, lse = probabilities(query, key, scaling, seen)
    return weights @ value.double().repeat_interleave(query.shape[1] // value.shape[1], 1), lse


def check(got, want, tolerance=None):
    tolerance = tolerance or TOLERANCE[got[0].device.type]
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=tolerance, rtol=tolerance)


@on_each_device
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_equals_the_definition(device, heads, kv_heads, rows, columns, is_causal):
    query, key, value = qkv(device, heads, kv_heads, rows, columns)
    seen = causal(rows, columns, device) if is_causal else torch.ones(rows, columns, dtype=torch.bool, device=device)
    got = attention(query, key, value, 0.3, causal=is_causal, need_lse=True)
    check(got, expected(query, key, value, 0.3, seen))


@on_each_device
def test_more_keys_than_queries_without_causality(device):
    query, key, value = qkv(device, 6, 2, 9, 4)
    seen = torch.ones(9, 4, dtype=torch.bool, device=device)
    check(attention(query, key, value, 0.3, causal=False, need_lse=True), expected(query, key, value, 0.3, seen))


@on_each_device
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize(
    "shape", [(2, 1, 1, 70), (2, 2, 1, 70), (1, 6, 1, 70), (2, 1, 33, 70), (2, 6, 33, 70), (33, 70)]
)
def test_masks_of_every_shape_with_rows_that_see_nothing(device, is_causal, shape):
    query, key, value = qkv(device, 6, 2, 33, 70)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(device) > 0.6
    mask[0] = False
    full = mask[(None,) * (4 - mask.dim())]
    full = full.repeat_interleave(3, 1) if full.shape[1] == 2 else full
    seen = (full & causal(33, 70, device)) if is_causal else full
    want = expected(query, key, value, 0.3, seen.expand(2, 6, 33, 70))
    assert (want[1] == float("-inf")).any()
    check(attention(query, key, value, 0.3, causal=is_causal, mask=mask, need_lse=True), want)


@on_each_device
def test_blocks_of_rows_change_nothing(device, monkeypatch):
    query, key, value = qkv(device, 6, 2, 33, 70)
    mask = torch.rand(2, 1, 33, 70, generator=torch.Generator().manual_seed(1)).to(device) > 0.3
    whole = attention(query, key, value, 0.3, causal=True, mask=mask, need_lse=True)
    monkeypatch.setattr(kernel, "_MASK_ELEMENTS", 2 * 70 * 4)
    check(attention(query, key, value, 0.3, causal=True, mask=mask, need_lse=True), [t.double() for t in whole])


@on_each_device
def test_the_reference_steps_in_when_no_backend_is_left(device, monkeypatch):
    monkeypatch.setattr(backends, "BACKENDS", backends.BACKENDS[-1:])
    monkeypatch.setattr(kernel, "_MASK_ELEMENTS", 2 * 6 * 70 * 4)
    query, key, value = qkv(device, 6, 2, 33, 70)
    got = attention(query, key, value, 0.3, causal=True, need_lse=True)
    check(got, expected(query, key, value, 0.3, causal(33, 70, device)))


@on_each_device
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_dtype_and_float32_lse(device, dtype):
    query, key, value = (t.to(dtype) for t in qkv(device, 6, 2, 140, 200, dim=64))
    out, lse = attention(query, key, value, 0.125, causal=True, need_lse=True)
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    want = expected(query, key, value, 0.125, causal(140, 200, device))
    check((out, lse), want, tolerance=2e-2)


@on_each_device
def test_transposed_views_are_fine(device):
    """Models hand over [B, N, H, D] seen as [B, H, N, D]."""
    query, key, value = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in qkv(device, 6, 2, 20, 31))
    got = attention(query, key, value, 0.3, causal=True, need_lse=True)
    check(got, expected(query, key, value, 0.3, causal(20, 31, device)))


def test_lse_only_on_request():
    assert attention(*qkv("cpu", 2, 1, 3, 3), 0.3, causal=True)[1] is None


def test_causal_needs_a_key_for_every_query():
    with pytest.raises(ValueError, match="5 queries over only 4 keys"):
        attention(*qkv("cpu", 2, 1, 5, 4), 0.3, causal=True)


@on_each_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_explain_names_every_backend_and_why(device, dtype):
    told = explain(device, dtype)
    assert [name for name, _, _ in told] == [b.name for b in backends.BACKENDS]
    assert all(why for _, _, why in told)
    usable = {name for name, fine, _ in told if fine}
    assert "reference" in usable
    assert usable & {"flash-cpu", "efficient"}, told
    assert ("flash-cpu" in usable) == (device == "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_explain_says_that_there_is_no_gpu():
    told = {name: (usable, why) for name, usable, why in explain("cuda", torch.bfloat16)}
    assert not any(usable for usable, _ in told.values())
    assert told["cudnn"][1] == "torch sees no CUDA device"


def test_a_trial_cut_short_by_memory_is_not_remembered(monkeypatch):
    def hungry(q, k, v, scaling, causal, bias):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(backends, "BACKENDS", (backends.Backend("hungry", None, (torch.float32,), True, 1, hungry),))
    with pytest.raises(torch.OutOfMemoryError):
        attention(*qkv("cpu", 2, 2, 3, 3), 0.3, causal=True)


def test_a_backend_that_is_wrong_is_not_used(monkeypatch):
    """A kernel whose LSE is in log2 looks fine until it is compared."""

    def log2(q, k, v, scaling, causal, bias):
        out, lse = reference.attention(q, k, v, scaling, causal=causal, mask=None if bias is None else bias == 0)
        return out, lse * 1.4427

    liar = backends.Backend("liar", None, (torch.float32,), True, 1, log2)
    monkeypatch.setattr(backends, "BACKENDS", (liar, backends.BACKENDS[-1]))
    told = {name: (usable, why) for name, usable, why in explain("cpu", torch.float32)}
    assert told["liar"][0] is False
    assert "differs from the reference" in told["liar"][1]
    query, key, _ = qkv("cpu", 2, 2, 3, 3)
    assert backends.choose(query, key, masked=False)[0].name == "reference"


def test_a_backend_without_grouped_heads_gets_them_repeated(monkeypatch):
    def picky(q, k, v, scaling, causal, bias):
        if q.shape[1] != k.shape[1]:
            raise RuntimeError("heads differ")
        return reference.attention(q, k, v, scaling, causal=causal, mask=None if bias is None else bias == 0)

    monkeypatch.setattr(backends, "BACKENDS", (backends.Backend("picky", None, (torch.float32,), True, 1, picky),))
    query, key, value = qkv("cpu", 6, 2, 9, 9)
    got = attention(query, key, value, 0.3, causal=True, need_lse=True)
    check(got, expected(query, key, value, 0.3, causal(9, 9, "cpu")))
