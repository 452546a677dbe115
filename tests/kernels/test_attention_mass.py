"""Attention mass against sums and maxima over the written-out softmax, in float64."""

import pytest
import torch

from purekv_cli.kernels.attention_mass import attention_mass, reference
from tests.kernels.devices import TOLERANCE, causal, on_each_device, probabilities, qkv


def expected(query, key, scaling, rows, valid, reduce):
    """A[b, g, j] by the definition; padded keys are outside the softmax, padded queries do not vote."""
    length, columns = query.shape[2], key.shape[2]
    valid = torch.ones(len(query), columns, dtype=torch.bool, device=query.device) if valid is None else valid
    weights, _ = probabilities(query, key, scaling, causal(length, columns, query.device) & valid[:, None, None])
    weights = weights * (rows & valid[:, columns - length :])[:, None, :, None]
    grouped = weights.unflatten(1, (key.shape[1], -1))
    return grouped.sum((2, 3)) if reduce == "sum" else grouped.amax((2, 3))


def lse_of(query, key, scaling, valid):
    seen = causal(query.shape[2], key.shape[2], query.device)
    seen = seen if valid is None else seen & valid[:, None, None]
    return probabilities(query, key, scaling, seen)[1].float()


def some_rows(length, which, device):
    at = torch.arange(length, device=device)
    few = torch.stack([at >= length - 2, at % 5 == 3])
    return {
        "all": torch.ones_like(few),
        "few": few,
        "one prompt only": few & (at[None] >= 0) & few.new_tensor([[1], [0]]),
    }[which]


@on_each_device
@pytest.mark.parametrize("reduce", ["sum", "max"])
@pytest.mark.parametrize("given", ["lse given", "lse on the spot"])
@pytest.mark.parametrize("which", ["all", "few", "one prompt only"])
@pytest.mark.parametrize("padded", ["no", "left", "right"])
@pytest.mark.parametrize(("heads", "kv_heads", "length", "columns"), [(4, 4, 33, 33), (6, 2, 17, 40), (7, 1, 1, 29)])
def test_equals_the_definition(device, reduce, given, which, padded, heads, kv_heads, length, columns):
    query, key, _ = qkv(device, heads, kv_heads, length, columns)
    rows = some_rows(length, which, device)
    whole_and_padded = torch.arange(columns, device=device) >= torch.tensor([[0], [26]], device=device)
    valid = {"no": None, "left": whole_and_padded, "right": whole_and_padded.flip(-1)}[padded]
    lse = lse_of(query, key, 0.4, valid) if given == "lse given" else None
    got = attention_mass(query, key, lse, 0.4, rows, valid, reduce)
    assert got.dtype == torch.float32
    want = expected(query, key, 0.4, rows, valid, reduce)
    torch.testing.assert_close(got.double(), want, atol=TOLERANCE[device], rtol=TOLERANCE[device])


@on_each_device
def test_every_observed_row_and_head_hands_out_one(device):
    query, key, _ = qkv(device, 6, 2, 57, 57)
    rows = some_rows(57, "few", device)
    got = attention_mass(query, key, None, 0.4, rows)
    torch.testing.assert_close(got.sum((1, 2)), rows.sum(-1) * 6.0)


@on_each_device
def test_padding_gets_nothing_and_changes_nothing(device):
    query, key, _ = qkv(device, 6, 2, 20, 20, batch=1)
    alone = attention_mass(query, key, None, 0.4, torch.ones(1, 20, dtype=torch.bool, device=device))
    wide = [torch.cat([torch.full_like(t[:, :, :5], 9.0), t], 2) for t in (query, key)]
    valid = torch.arange(25, device=device)[None] >= 5
    beside = attention_mass(*wide, None, 0.4, torch.ones_like(valid), valid)
    assert (beside[..., :5] == 0).all()
    torch.testing.assert_close(beside[..., 5:], alone)


@on_each_device
def test_blocks_change_nothing(device, monkeypatch):
    query, key, _ = qkv(device, 6, 2, 30, 41)
    rows = some_rows(30, "few", device)
    whole = [attention_mass(query, key, None, 0.4, rows, None, reduce) for reduce in ("sum", "max")]
    monkeypatch.setattr(reference, "_BLOCK_ELEMENTS", {device: 1})
    for reduce, want in zip(("sum", "max"), whole, strict=True):
        torch.testing.assert_close(attention_mass(query, key, None, 0.4, rows, None, reduce), want)


def test_no_observed_row_means_no_mass():
    query, key, _ = qkv("cpu", 4, 2, 8, 8)
    assert (attention_mass(query, key, None, 0.4, torch.zeros(2, 8, dtype=torch.bool)) == 0).all()


@on_each_device
def test_no_attention_matrix_is_stored(device, monkeypatch):
    """The largest tensor made on the way stays within the block size, however many rows are observed."""
    monkeypatch.setattr(reference, "_BLOCK_ELEMENTS", {device: 2000})
    query, key, _ = qkv(device, 4, 2, 200, 200, batch=1, dim=2)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.untyped_storage().nbytes() // result.element_size())
            return result

    with Watch():
        attention_mass(query, key, None, 0.4, torch.ones(1, 200, dtype=torch.bool, device=device))
    assert largest <= 2000
