"""Baselines that judge by keys, values and frames: against plain loops in float64, and worked by hand."""

import pytest
import torch

from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies import Observation, make
from tests.method.prompts import observation, prompt

PROMPTS = (prompt((5, 3, 3), before=3, after=7, between=1), prompt((4, 1, 5), before=2, after=3))  # padded to 59
BATCH, KV_HEADS, LENGTH = 2, 2, 59


def padded() -> PromptMasks:
    """Two prompts of unlike length and grid, the second padded."""
    return PromptMasks.of(PROMPTS)


def by_hand(key: list[list[float]], value: list[list[float]], masks: PromptMasks, query: float = 0.0) -> Observation:
    """One layer, one head, batch 1; all queries alike in every component."""
    k, v = torch.tensor(key)[None, None], torch.tensor(value)[None, None]
    return Observation(0, 1, torch.full_like(k, query), k, v, None, 1.0, masks)


def test_knorm_is_minus_the_norm_of_every_key() -> None:
    seen = observation(padded())
    want = torch.tensor(
        [[[-sum(x * x for x in k) ** 0.5 for k in head] for head in row] for row in seen.key.double().tolist()]
    )
    torch.testing.assert_close(make("knorm", MethodConfig()).score(seen), want)


def test_knorm_worked_by_hand() -> None:
    masks = PromptMasks.of([prompt((1, 1, 3), before=1, after=1)])
    seen = by_hand([[9.0, 9.0], [3.0, 4.0], [0.0, 2.0], [1.0, 0.0], [9.0, 9.0]], [[1.0, 1.0]] * 5, masks)
    policy = make("knorm", MethodConfig())
    assert policy.score(seen)[0, 0, 1:4].tolist() == [-5.0, -2.0, -1.0]
    assert policy.select(policy.score(seen), 4, masks).tolist() == [[[0, 2, 3, 4]]]
