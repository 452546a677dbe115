"""Compaction moves the right entries and owns its memory."""

import torch

from purekv_cli.kernels.compact import compact
from tests.kernels.devices import on_each_device, qkv


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
