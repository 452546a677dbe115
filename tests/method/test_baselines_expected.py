"""Expected attention and CriticalKV against matrices written out in float64, and worked by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from purekv_cli.errors import UsageError
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies import Observation, make
from purekv_cli.method.policies.base import Rotary
from purekv_cli.method.policies.expected_attention import AHEAD
from purekv_cli.method.policies.snapkv import SnapKV
from tests.method.prompts import observation, prompt

PROMPTS = (prompt((5, 3, 3), before=3, after=7, between=1), prompt((4, 1, 5), before=2, after=3))
SHAPES = [(4, 2), (6, 1), (3, 3)]  # query heads, KV heads

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def turn(cos, sin):
    """The rotation of one position as a matrix [D, D]."""
    half = len(cos) // 2
    matrix = np.diag(cos)
    for i in range(half):
        matrix[i, i + half], matrix[i + half, i] = -sin[i], sin[i + half]
    return matrix


@every_shape
@pytest.mark.parametrize("observe", ["question", "video"])
def test_expected_attention_is_that_of_matrices(shape, observe):
    masks = PromptMasks.of(PROMPTS)
    seen = observation(masks, 0, 4, *shape)
    got = make("expected-attention", MethodConfig(observe=observe)).score(seen)
    for row, layout in enumerate(PROMPTS):
        at = masks.valid[row].nonzero().flatten().tolist()
        asked = [j for j in at[4:] if observe == "question" or not masks.after[row, j]]
        turns = {
            j: turn(seen.rotary.cos[row, j].double().numpy(), seen.rotary.sin[row, j].double().numpy()) for j in at
        }
        cos, sin = (angle[row].double().numpy() for angle in seen.rotary.ahead(AHEAD))
        later = sum(turn(c, s) for c, s in zip(cos, sin, strict=True)) / AHEAD
        for g in range(shape[1]):
            key, value = (states[row, g].double().numpy() for states in (seen.key, seen.value))
            shares = []
            for h in range(g * shape[0] // shape[1], (g + 1) * shape[0] // shape[1]):
                before = np.stack([np.linalg.inv(turns[j]) @ seen.query[row, h, j].double().numpy() for j in asked])
                mean, spread = later @ before.mean(0), later @ np.cov(before.T, bias=True) @ later.T
                d = 1 / seen.scaling**2
                logits = [key[j] @ mean / math.sqrt(d) + key[j] @ spread @ key[j] / (2 * d) for j in at[4:]]
                shares.append(np.exp(logits) / np.exp(logits).sum())
            want = np.mean(shares, 0) * np.linalg.norm(value[at[4:]], axis=-1)
            np.testing.assert_allclose(got[row, g, at[4:]].numpy(), want, rtol=1e-4)
        assert torch.isinf(got[row][:, at[:4]]).all()
        assert len(at) == layout.length


def test_expected_attention_by_hand():
    """Pairs (1, 0) turned by nothing; positions ahead turned by half a turn in one half of the cases: R = 0.

    Then every key is expected alike, and values decide: 1, 2 and 3 of norm, a third each.
    """
    masks = PromptMasks.of([prompt((1, 1, 5), before=1, after=1)])
    query = torch.tensor([[1.0, 0.0]]).expand(1, 1, 7, 2)
    key = torch.randn(1, 1, 7, 2, generator=torch.Generator().manual_seed(0))
    value = torch.tensor([9.0, 9.0, 9.0, 9.0, 1.0, 2.0, 3.0])[None, None, :, None].expand(-1, -1, -1, 2) / math.sqrt(2)
    still = torch.ones(1, 7, 2), torch.zeros(1, 7, 2)
    halves = torch.tensor([1.0, -1.0]).repeat(AHEAD // 2)[None, :, None].expand(1, AHEAD, 2)
    rotary = Rotary(*still, lambda count: (halves, torch.zeros_like(halves)))
    seen = Observation(0, 1, query, key, value, None, 1.0, masks, rotary=rotary)
    score = make("expected-attention", MethodConfig()).score(seen)
    torch.testing.assert_close(score[0, 0, 4:], torch.tensor([1.0, 2.0, 3.0]) / 3)
    onwards = replace(seen, rotary=Rotary(*still, lambda count: (torch.ones(1, count, 2), torch.zeros(1, count, 2))))
    want = key[0, 0, 4:, 0].softmax(0) * torch.tensor([1.0, 2.0, 3.0])  # all queries alike: no spread
    torch.testing.assert_close(make("expected-attention", MethodConfig()).score(onwards)[0, 0, 4:], want)


def test_a_question_that_is_not_observed_does_not_matter():
    masks = PromptMasks.of([prompt((6, 2, 3), before=2, after=5)])
    seen = observation(masks)
    other = replace(seen, query=torch.where(masks.after[:, None, :, None], seen.query.flip(-1), seen.query))
    for observe, matters in (("question", True), ("video", False)):
        policy = make("expected-attention", MethodConfig(observe=observe))
        scores = [policy.score(each)[..., :38] for each in (seen, other)]
        assert policy.uses_question is matters
        assert torch.equal(*scores) is not matters


@pytest.mark.parametrize("name", ["expected-attention", "criticalkv"])
def test_what_is_not_at_hand_is_said(name):
    seen = observation(PromptMasks.of([prompt((1, 2, 2))]))
    with pytest.raises(UsageError, match=name):
        make(name, MethodConfig()).score(replace(seen, out=None, rotary=None))


@every_shape
@pytest.mark.parametrize("extra", [1, 9, 16])
def test_criticalkv_keeps_half_by_attention_and_half_by_what_values_add(shape, extra, monkeypatch):
    monkeypatch.setattr(SnapKV, "window", 4)
    monkeypatch.setattr("purekv_cli.method.policies.criticalkv._ROWS", 7)
    masks = PromptMasks.of(PROMPTS)
    entries = masks.protected.sum(-1) + extra
    seen = observation(masks, 0, 4, *shape)
    base = make("snapkv", MethodConfig()).score(seen).double()
    policy = make("criticalkv", MethodConfig())
    got = policy.select(policy.score(seen), entries, masks)
    groups, dim = shape[0] // shape[1], seen.value.shape[-1]
    for row in range(len(PROMPTS)):
        at = masks.valid[row].nonzero().flatten().tolist()
        always = set(masks.protected[row].nonzero().flatten().tolist()) | set(at[-4:])
        for g in range(shape[1]):
            s, kept = base[row, g].tolist(), set(always)
            half = max(0, int(entries[row]) - len(always)) // 2
            kept |= set(sorted(set(at) - kept, key=lambda j: (-s[j], j))[:half])
            weighted = {}
            for j in set(at) - kept:
                added = [
                    (seen.out[:, h * dim : (h + 1) * dim].double() @ seen.value[row, g, j].double()).abs().sum()
                    for h in range(g * groups, (g + 1) * groups)
                ]
                weighted[j] = (s[j] + 1e-4) * float(sum(added)) / groups
            rest = max(0, int(entries[row]) - len(kept))
            kept |= set(sorted(weighted, key=lambda j: (-weighted[j], j))[:rest])
            places = got[row, g]
            assert len(places[places >= 0]) == entries[row]
            if int(entries[row]) >= len(always):
                assert set(places[places >= 0].tolist()) == kept


def test_criticalkv_by_hand(monkeypatch):
    """Scores before the window (pooled over one) 1/20 but for 10/20 and 4/20; the second value is a hundred times."""
    monkeypatch.setattr(SnapKV, "window", 1)
    monkeypatch.setattr("purekv_cli.method.policies.snapkv.POOL", 1)
    masks = PromptMasks.of([prompt((1, 1, 6), before=1, after=1)])
    key = torch.tensor([1.0, 1.0, 1.0, 1.0, 10.0, 4.0, 1.0, 1.0]).log()[None, None, :, None]
    value = torch.ones_like(key)
    value[0, 0, 2] = 100.0
    seen = Observation(0, 1, torch.ones_like(key), key, value, None, 1.0, masks, torch.tensor([[2.0], [-1.0]]))
    policy = make("criticalkv", MethodConfig())
    score = policy.score(seen)
    torch.testing.assert_close(score[0, 1, 2], torch.tensor((0.05 + 1e-4) * 300))
    assert policy.select(score, 4, masks).tolist() == [[[0, 2, 4, 7]]]
    assert policy.select(score, 3, masks).tolist() == [[[0, 2, 7]]]
