"""What flows on: what is needed, then the tokens that were looked at most or changed most."""

import torch

from purekv_cli.method.config import Propagation
from purekv_cli.method.propagate import flowing, flowing_count

NEEDED = torch.tensor([[True, False, False, False, False, False, False, True]])
VIDEO = torch.arange(1, 7)


def test_without_a_change_the_score_alone_decides() -> None:
    score = torch.tensor([[[0.0, 0.1, 0.9, 0.2, 0.8, 0.3, 0.0, 0.0]]])
    assert flowing(score, NEEDED, 4).tolist() == [0, 2, 4, 7]


def test_a_token_counts_by_the_better_of_its_two_ranks() -> None:
    score = torch.tensor([[[0.0, 0.1, 0.9, 0.2, 0.8, 0.3, 0.0, 0.0]]])
    change = torch.tensor([5.0, 0.0, 1.0, 2.0, 0.5, 9.0])
    assert flowing(score, NEEDED, 4, VIDEO, change).tolist() == [0, 2, 6, 7]  # the best of each list
    assert flowing(score, NEEDED, 6, VIDEO, change).tolist() == [0, 1, 2, 4, 6, 7]  # and the seconds


def test_needed_tokens_flow_whatever_their_rank() -> None:
    score, change = torch.rand(1, 2, 8), torch.rand(6)
    for count in range(2, 9):
        rows = flowing(score, NEEDED, count, VIDEO, change)
        assert rows.tolist() == sorted(set(rows.tolist()))
        assert len(rows) == count
        assert {0, 7} <= set(rows.tolist())


def test_the_share_gives_way_to_the_budget_and_to_what_is_needed() -> None:
    assert flowing_count(Propagation(4, 0.25), 100, 20, 5) == 25
    assert flowing_count(Propagation(4, 0.25), 100, 40, 5) == 40
    assert flowing_count(Propagation(4, 0.25), 100, 20, 60) == 60
    assert flowing_count(Propagation(4, 1.0), 100, 20, 5) == 100
