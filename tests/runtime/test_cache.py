"""The compact cache: logical lengths, physical entries, and the ways transformers reshapes a cache."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from purekv_cli.runtime.cache import CompactCache, CompactLayer
from tests.runtime.tiny import DEVICE

HEADS, DIM = 2, 4


def states(tokens: int, batch: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    key, value = torch.randn(2, batch, HEADS, tokens, DIM, generator=generator).to(DEVICE)
    return key, value


def filled(tokens: int, batch: int = 1) -> tuple[CompactLayer, Tensor, Tensor]:
    layer = CompactLayer()
    key, value = states(tokens, batch)
    layer.update(key, value)
    return layer, key, value


def test_pruning_keeps_the_chosen_entries_and_the_logical_length() -> None:
    layer, key, value = filled(10)
    layer.prune(torch.tensor([[[1, 4, 9], [0, 2, -1]]]))
    assert layer.get_seq_length() == 10
    assert layer.get_mask_sizes(3) == (13, 0)
    assert layer.kept_pos.tolist() == [[[1, 4, 9], [0, 2, -1]]]
    keys, values, _ = layer.stored()
    assert torch.equal(keys[0, 0], key[0, 0, [1, 4, 9]])
    assert torch.equal(values[0, 1, :2], value[0, 1, [0, 2]])
    assert layer.has_holes
    readable = layer.readable(None)
    assert readable is not None
    assert readable[0, :, 0].tolist() == [[True] * 3, [True, True, False]]


@given(
    heads=st.lists(st.sets(st.integers(1, 9)), min_size=HEADS, max_size=HEADS),
    length=st.integers(1, 12),
    prunes=st.booleans(),
)
def test_what_is_forgotten_never_came(heads: list[set[int]], length: int, prunes: bool) -> None:
    """Pruned or not, with holes or without: as if only the first tokens had come, and those of them were kept."""
    chosen = [sorted(head | {0}) if prunes else list(range(10)) for head in heads]

    def rows(of: list[list[int]]) -> Tensor:
        return torch.tensor([[each + [-1] * (max(map(len, of)) - len(each)) for each in of]])

    layer, key, value = filled(10)
    if prunes:
        layer.prune(rows(chosen))
    layer.forget(length)
    left = min(length, 10)
    truth = CompactLayer()
    truth.update(key[:, :, :left], value[:, :, :left])
    truth.prune(rows([[place for place in head if place < left] for head in chosen]))
    for one in (layer, truth):
        one.update(*states(3, seed=1))
    assert layer.get_seq_length() == truth.get_seq_length() == left + 3
    places, wanted = layer.kept_pos, truth.kept_pos
    for head in range(HEADS):
        there, same = places[0, head] >= 0, wanted[0, head] >= 0
        assert torch.equal(places[0, head, there], wanted[0, head, same])
        assert torch.equal(layer.stored()[0][0, head, there], truth.stored()[0][0, head, same])
        assert torch.equal(layer.stored()[1][0, head, there], truth.stored()[1][0, head, same])


def test_new_tokens_follow_at_their_true_positions() -> None:
    layer, *_ = filled(10)
    layer.prune(torch.tensor([[[1, 4, 9]]]))
    for step in range(3):
        keys, _ = layer.update(*states(1, seed=step + 1))
    assert keys.shape[-2] == 6
    assert layer.kept_pos[0, 1].tolist() == [1, 4, 9, 10, 11, 12]
    assert torch.equal(keys[:, :, -1:], states(1, seed=3)[0])
    assert layer.readable(None) is None


def test_padding_is_looked_up_by_position() -> None:
    layer, *_ = filled(6, batch=2)
    layer.prune(torch.tensor([[[0, 3, 5]], [[2, 3, 4]]]))
    valid = torch.tensor([[True] * 6, [False, False, False, True, True, True]], device=DEVICE)
    readable = layer.readable(valid)
    assert readable is not None
    assert readable[:, 0, 0].tolist() == [[True, True, True], [False, True, True]]


def test_memory_is_freed() -> None:
    layer, key, value = filled(100)
    full = layer.kv_bytes
    assert full == 2 * HEADS * 100 * DIM * 4
    storages = [t.untyped_storage()._weak_ref() for t in (key, value)]
    del key, value
    layer.prune(torch.arange(10).view(1, 1, -1))
    assert layer.kv_bytes == full // 10
    assert sum(t.untyped_storage().nbytes() for t in layer.stored()[:2]) == full // 10
    assert all(torch.UntypedStorage._expired(ref) for ref in storages)
    for ref in storages:
        torch.UntypedStorage._free_weak_ref(ref)


def test_many_single_tokens_do_not_copy_the_cache_each_time() -> None:
    layer, *_ = filled(1000)
    places = set()
    for step in range(50):
        keys, _ = layer.update(*states(1, seed=step))
        places.add(keys.data_ptr())
    assert len(places) == 1


@settings(max_examples=60)
@given(st.data())
def test_any_mix_of_appending_pruning_and_rewinding_matches_a_plain_list(data: st.DataObject) -> None:
    """Model-based: each head is a list of (position, key) pairs."""
    layer, truth, seen, floor, seed = CompactLayer(), [[] for _ in range(HEADS)], 0, 0, 0
    for _ in range(data.draw(st.integers(1, 8))):
        action = data.draw(st.sampled_from(["append", "prune", "rewind"]))
        if action == "append" or seen == 0:
            seed, new = seed + 1, data.draw(st.integers(1, 5))
            key, value = states(new, seed=seed)
            layer.update(key, value)
            for head in range(HEADS):
                truth[head] += [(seen + i, key[0, head, i].tolist()) for i in range(new)]
            seen += new
        elif action == "prune":
            length = layer.entries
            start = data.draw(st.integers(0, length - 1))
            rows = [sorted(data.draw(st.sets(st.integers(0, length - start - 1), min_size=1))) for _ in range(HEADS)]
            most = max(map(len, rows))
            padded = torch.tensor([[row + [-1] * (most - len(row)) for row in rows]])
            layer.prune(padded, start)
            truth = [
                [*pairs[:start], *(pairs[start + i] for i in row), *([(-1, None)] * (most - len(row)))]
                for pairs, row in zip(truth, rows, strict=True)
            ]
            floor = layer.entries
        else:
            back = data.draw(st.integers(0, layer.entries - floor))
            layer.crop(-back)
            truth = [pairs[: len(pairs) - back] for pairs in truth]
            seen -= back
        assert layer.get_seq_length() == seen
        if layer.entries:
            keys, _, _ = layer.stored()
            for head in range(HEADS):
                assert layer.kept_pos[0, head].tolist() == [
                    -1 if position != -1 and pair is None else position for position, pair in truth[head]
                ]
                for entry, (position, pair) in enumerate(truth[head]):
                    if position >= 0 and pair is not None:
                        assert keys[0, head, entry].tolist() == pair


def test_what_was_pruned_cannot_be_cropped() -> None:
    layer, *_ = filled(10)
    layer.prune(torch.tensor([[[1, 4, 9]]]))
    layer.update(*states(2))
    with pytest.raises(ValueError, match="only 2"):
        layer.crop(-3)
    layer.crop(-2)
    assert layer.get_seq_length() == 10


def test_batches_follow_beams_repeats_and_selections() -> None:
    cache = CompactCache(2)
    for index in range(2):
        cache.update(*states(5, batch=2, seed=index), index)
        cache.layers[index].prune(torch.tensor([[[0, 1]], [[3, 4]]]))
    cache.batch_repeat_interleave(2)
    assert cache.kept[1][:, 0].tolist() == [[0, 1], [0, 1], [3, 4], [3, 4]]
    cache.reorder_cache(torch.tensor([2, 0, 2, 1]))
    assert cache.kept[0][:, 0].tolist() == [[3, 4], [0, 1], [3, 4], [0, 1]]
    cache.batch_select_indices(torch.tensor([1]))
    assert cache.kept[0].shape == (1, HEADS, 2)
    keys, _ = cache.update(*states(1), 0)
    assert keys.shape == (1, HEADS, 3, DIM)
    cache.reset()
    assert cache.get_seq_length() == 0
    assert cache.kv_bytes() == 0


def test_rewinding_to_a_mark_shares_the_prefix() -> None:
    cache = CompactCache(1)
    cache.update(*states(8), 0)
    cache.layers[0].prune(torch.tensor([[[0, 7]]]))
    mark, before = cache.mark(), cache.layers[0].stored()[0].clone()
    for seed in (1, 2):
        for step in range(3):
            cache.update(*states(1, seed=10 * seed + step), 0)
        cache.rewind(mark)
        assert cache.get_seq_length() == mark == 8
        assert torch.equal(cache.layers[0].stored()[0], before)


def test_a_copy_goes_its_own_way() -> None:
    cache = CompactCache(1)
    cache.update(*states(8), 0)
    other = copy.deepcopy(cache)
    cache.update(*states(1, seed=1), 0)
    other.update(*states(1, seed=2), 0)
    assert not torch.equal(cache.layers[0].stored()[0][:, :, -1], other.layers[0].stored()[0][:, :, -1])


def test_a_cache_filled_in_inference_mode_can_be_used_outside() -> None:
    layer, *_ = filled(4)
    with torch.inference_mode():
        layer.update(*states(1))
        layer.update(*states(1))
    keys, _ = layer.update(*states(1))
    assert keys.shape[-2] == 7
