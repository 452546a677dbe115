"""Compaction moves the right entries and owns its memory."""

import pytest
import torch

from purekv_cli.kernels.compact import compact, explain, reference
from tests.kernels.devices import interpreted, on_each_device, qkv

with interpreted():
    from purekv_cli.kernels.compact import triton

TRITON_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@on_each_device
def test_each_head_gets_its_own_entries_and_zeros_where_it_has_fewer(device):
    _, key, value = qkv(device, 2, 2, 1, 9)
    positions = torch.tensor([[[0, 3, 8], [1, 2, 5]], [[4, 7, -1], [8, -1, -1]]], device=device)
    kept_key, kept_value = compact(key, value, positions)
    for kept, full in ((kept_key, key), (kept_value, value)):
        for b, h, p in torch.cartesian_prod(*map(torch.arange, positions.shape)).tolist():
            at = int(positions[b, h, p])
            want = full[b, h, at] if at >= 0 else torch.zeros_like(full[b, h, 0])
            assert torch.equal(kept[b, h, p], want)


@on_each_device
def test_one_set_serves_all_heads(device):
    _, key, value = qkv(device, 4, 4, 1, 9)
    one = torch.tensor([[[0, 3, 8]], [[4, 7, -1]]], device=device)
    for mine, theirs in zip(compact(key, value, one), compact(key, value, one.repeat(1, 4, 1)), strict=True):
        assert torch.equal(mine, theirs)


@on_each_device
def test_the_full_cache_can_be_freed(device):
    _, key, value = qkv(device, 2, 2, 1, 9)
    positions = torch.tensor([[[0, 3]]], device=device)
    for kept, full in zip(compact(key, value, positions), (key, value), strict=True):
        assert kept.shape == (2, 2, 2, 16)
        assert kept.untyped_storage().nbytes() == kept.numel() * 4
        assert kept.untyped_storage().data_ptr() != full.untyped_storage().data_ptr()


@on_each_device
def test_positions_of_the_prompt_find_permuted_rows(device):
    _, key, value = qkv(device, 4, 4, 1, 9)
    order = torch.tensor([4, 0, 8, 3, 1, 7, 6, 2, 5], device=device)  # prompt position of every row
    kept = torch.tensor([[[0, 3, 8, -1]]], device=device)
    permuted = compact(key[:, :, order], value[:, :, order], kept, source=order.argsort())
    for mine, theirs in zip(permuted, compact(key, value, kept), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("mapped", ["prompt order", "permuted"])
@pytest.mark.parametrize(
    ("batch", "heads", "sets", "entries", "kept", "dim"),
    [(1, 1, 1, 1, 1, 64), (2, 3, 3, 65, 33, 64), (1, 4, 1, 129, 65, 128), (2, 2, 1, 63, 1, 80), (1, 2, 2, 9, 0, 16)],
)
def test_the_kernel_moves_the_same_entries(interpreter, dtype, mapped, batch, heads, sets, entries, kept, dim):
    generator = torch.Generator().manual_seed(entries)
    shape = (batch, entries, 2 * heads, dim)
    both = torch.randn(shape, generator=generator).to(TRITON_DEVICE, dtype).transpose(1, 2)
    key, value = both[:, :heads], both[:, heads:]  # strided, as a fused projection leaves them
    at = torch.randint(-1, entries, (batch, sets, kept), generator=generator).to(TRITON_DEVICE)
    source = torch.randperm(entries, generator=generator).to(TRITON_DEVICE) if mapped == "permuted" else None
    got, want = (module.compact(key, value, at, source) for module in (triton, reference))
    for mine, theirs in zip(got, want, strict=True):
        assert torch.equal(mine, theirs)
        assert mine.is_contiguous()
        assert mine.dtype == dtype


def test_a_head_that_keeps_nothing_but_text(interpreter):
    """Its row of positions is nearly all holes: zeros, whatever lies at the last position."""
    _, key, value = qkv(TRITON_DEVICE, 2, 2, 1, 70, batch=1)
    at = torch.full((1, 2, 66), -1, device=TRITON_DEVICE)
    at[0, 0], at[0, 1, :2] = torch.arange(66), torch.tensor([0, 69])
    for kept, full in zip(triton.compact(key, value, at, None), (key, value), strict=True):
        assert torch.equal(kept[0, 0], full[0, 0, :66])
        assert torch.equal(kept[0, 1, :2], full[0, 1, [0, 69]])
        assert (kept[0, 1, 2:] == 0).all()


def test_without_a_gpu_the_reference_says_why():
    assert explain("cpu", torch.float32) == (False, "runs on CUDA only")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_kernel_proves_itself():
    assert explain("cuda", torch.bfloat16) == (True, "agrees with the reference")


@pytest.fixture
def interpreter():
    """Kernels of this module run natively on a GPU, interpreted without one."""
    with interpreted():
        yield
