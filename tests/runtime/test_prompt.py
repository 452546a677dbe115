"""What is known of prompts: masks found by token equal those of given layouts, and they follow the batch."""

import torch

from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import VideoLayout
from purekv_cli.runtime.cache import CompactCache
from purekv_cli.runtime.prompt import Prompt

VIDEO = 7
IDS = [[1, 1, VIDEO, VIDEO, 1, VIDEO, 1, 1], [1, VIDEO, 1], [1, 1, 1, 1]]


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([[0] * (8 - len(row)) + row for row in IDS])
    return ids, (ids > 0).long()


def test_masks_by_token_are_those_of_the_layouts() -> None:
    ids, mask = padded()
    found = Prompt.of_ids(ids, VIDEO, mask)
    grids = [(1, 1, 3), (1, 1, 1), (0, 0, 0)]
    layouts = [
        VideoLayout(len(row), torch.tensor([i for i, token in enumerate(row) if token == VIDEO]).long(), grid)
        for row, grid in zip(IDS, grids, strict=True)
    ]
    given = Prompt.of_layouts(layouts)
    for name in ("video", "after", "valid", "protected"):
        assert torch.equal(getattr(found.masks, name), getattr(given.masks, name)), name


def test_one_video_and_several_have_a_layout() -> None:
    ids = torch.tensor([IDS[0]])
    layout = Prompt.of_ids(ids, VIDEO, grids=[(3, 1, 1)]).layout
    assert layout is not None
    assert (layout.length, layout.video.tolist(), layout.grid) == (8, [2, 3, 5], (3, 1, 1))
    layout = Prompt.of_ids(ids, VIDEO, grids=[(2, 1, 1), (1, 1, 1)]).layout
    assert layout is not None
    assert layout.grids == ((2, 1, 1), (1, 1, 1))
    assert Prompt.of_ids(ids, VIDEO, grids=[(4, 1, 1)]).layout is None


def test_each_prompt_has_a_budget_of_its_own() -> None:
    ids, mask = padded()
    prompt = Prompt.of_ids(ids[:2], VIDEO, mask[:2])
    most = MethodConfig(policy="random", budget=Budget("tokens", 7))
    assert prompt.entries(most, 1) == [7, 3]
    assert prompt.entries(MethodConfig(policy="dense"), 1) == [8, 3]
    prompt.reserve = 1
    assert prompt.entries(most, 1) == [7 - 1, 4 - 1]


def test_a_prompt_follows_its_cache_to_other_rows() -> None:
    ids, mask = padded()
    cache = CompactCache(1)
    cache.update(*torch.zeros(2, 3, 1, 8, 4), 0)
    cache.prompt = prompt = Prompt.of_ids(ids, VIDEO, mask)
    prompt.delta = torch.tensor([[10], [20], [30]])
    cache.reorder_cache(torch.tensor([2, 0, 1]))
    assert prompt.delta.flatten().tolist() == [30, 10, 20]
    assert prompt.masks.valid.sum(-1).tolist() == [4, 8, 3]
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([False, True, False, False, True, True]))
    assert prompt.delta.flatten().tolist() == [30, 20, 20]
    prompt.expand(6)
    assert prompt.masks.valid.sum(-1).tolist() == [4, 4, 3, 3, 3, 3]
