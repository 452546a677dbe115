"""Baselines that score by attention or by place, against the formulas written out with whole attention matrices."""

import math

import pytest
import torch

from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies import Observation, make, observes
from purekv_cli.method.policies.snapkv import SnapKV
from tests.method.prompts import observation, prompt

LAYERS, WINDOW = 5, 6
SHAPES = [(4, 2), (6, 1), (3, 3)]  # query heads, KV heads
PROMPTS = {
    "one": [prompt((7, 3, 3), before=3, after=4)],
    "ends in video": [prompt((11, 1, 3), before=1, after=0)],
    "stamped": [prompt((5, 2, 3), before=2, after=9, between=2)],
    "padded": [prompt((7, 3, 3), before=3, after=4), prompt((5, 2, 3), before=5, after=2)],
}

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_prompt = pytest.mark.parametrize("layouts", PROMPTS.values(), ids=PROMPTS)


@pytest.fixture(autouse=True)
def small_window(monkeypatch):
    """A window that is shorter than these prompts."""
    monkeypatch.setattr(SnapKV, "window", WINDOW)


def attention_of(seen, row):
    """softmax(q k^T) of one prompt without its padding, [Hkv, G, n, n], in float64."""
    at = seen.masks.valid[row].nonzero().flatten()
    query, key = seen.query[row, :, at].double(), seen.key[row, :, at].double()
    query = query.unflatten(0, (key.shape[0], -1))
    scores = query @ key[:, None].mT * seen.scaling
    return scores.masked_fill(~torch.ones(len(at), len(at), dtype=torch.bool).tril(), -math.inf).softmax(-1)


def snapkv_by_rule(attention):
    """Scores before the window as lists of floats, [Hkv][n - w]."""
    n = attention.shape[-1]
    mean = attention[:, :, n - WINDOW :, : n - WINDOW].mean((1, 2)).tolist()
    return [[sum(head[max(0, j - 2) : j + 3]) / 5 for j in range(len(head))] for head in mean]


def best(scores, count):
    """The `count` keys of the largest scores, {key: score}; of equal ones the smaller key."""
    return set(sorted(scores, key=lambda key: (-scores[key], key))[: max(0, count)])


def text_of(masks, row):
    """Places of the text in the prompt without its padding, and the prompt's length."""
    protected = masks.protected[row][masks.valid[row]]
    return set(protected.nonzero().flatten().tolist()), len(protected)


def fill(must, first, scores, count):
    """`must`, then of `first` the latest, then the best by score, `count` in all."""
    kept = set(must)
    kept |= set(sorted(first - kept, reverse=True)[: max(0, count - len(kept))])
    return kept | best({j: s for j, s in scores.items() if j not in kept}, count - len(kept))


def streaming_by_rule(seen, row, index, entries):
    text, n = text_of(seen.masks, row)
    kept = fill(text, set(), {j: -j for j in range(4)}, min(entries, len(text | set(range(4)))))
    return [fill(kept, set(range(n)), {}, entries)]


def h2o_by_rule(seen, row, index, entries):
    text, n = text_of(seen.masks, row)
    window = set(range(n - entries // 2, n))
    sums = attention_of(seen, row).sum((1, 2)).tolist()
    return [fill(text, window, dict(enumerate(head)), entries) for head in sums]


def tova_by_rule(seen, row, index, entries):
    text, _ = text_of(seen.masks, row)
    last = attention_of(seen, row)[:, :, -1].mean((0, 1)).tolist()
    return [fill(text, set(), dict(enumerate(last)), entries)]


def snapkv_of_rule(seen, row, index, entries):
    text, n = text_of(seen.masks, row)
    heads = snapkv_by_rule(attention_of(seen, row))
    return [fill(text, set(range(n - WINDOW, n)), dict(enumerate(head)), entries) for head in heads]


def pyramid_budgets(seen, row, entries):
    """Entries of every layer, before rounding."""
    text, n = text_of(seen.masks, row)
    w = len(text | set(range(n - WINDOW, n)))
    mean = entries - w
    low = mean / 20
    high = 2 * mean - low
    if high > n - w:
        high = n - w
        low = 2 * mean - high
    if mean <= 0 or mean >= n - w:
        return [entries] * LAYERS
    return [w + high + (low - high) * layer / (LAYERS - 1) for layer in range(LAYERS)]


def adakv_by_rule(seen, row, index, entries):
    text, n = text_of(seen.masks, row)
    window = set(range(n - WINDOW, n))
    heads = snapkv_by_rule(attention_of(seen, row))
    always = text | window
    if entries < len(always):
        return [fill(text, window, {}, entries) for _ in heads]
    scores = {(g, j): s for g, head in enumerate(heads) for j, s in enumerate(head) if j not in always}
    kept = set()
    for g in range(len(heads)):
        own = {key: s for key, s in scores.items() if key[0] == g}
        kept |= best(own, int(0.2 * (entries - len(always))))
    rest = {key: s for key, s in scores.items() if key not in kept}
    kept |= best(rest, (entries - len(always)) * len(heads) - len(kept))
    return [always | {j for h, j in kept if h == g} for g in range(len(heads))]


RULES = {
    "streaming-llm": streaming_by_rule,
    "h2o": h2o_by_rule,
    "tova": tova_by_rule,
    "snapkv": snapkv_of_rule,
    "adakv": adakv_by_rule,
}


def kept(positions, masks, row):
    """Sets of places without padding, one a head; checks the form of the answer."""
    pad = masks.valid.shape[1] - int(masks.valid[row].sum())
    sets = []
    for one in positions[row]:
        stays = one[one >= 0]
        assert (one[len(stays) :] == -1).all()
        assert (stays.diff() > 0).all()
        sets.append(set((stays - pad).tolist()))
    return sets


@every_shape
@every_prompt
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("extra", [1, 8, 17])
def test_the_sets_are_those_of_the_formula(name, layouts, shape, extra):
    masks = PromptMasks.of(layouts)
    entries = masks.protected.sum(-1) + extra
    policy = make(name, MethodConfig())
    for index in range(2):
        seen = observation(masks, index, LAYERS, *shape)
        positions = policy.select(policy.score(seen), entries if len(layouts) > 1 else int(entries), masks)
        for row in range(len(layouts)):
            assert kept(positions, masks, row) == RULES[name](seen, row, index, int(entries[row]))


@every_shape
@every_prompt
@pytest.mark.parametrize("extra", [1, 8, 13, 22])
def test_pyramidkv_keeps_snapkvs_best_in_budgets_that_fall_linearly(layouts, shape, extra):
    masks = PromptMasks.of(layouts)
    entries = masks.protected.sum(-1) + extra
    policy = make("pyramidkv", MethodConfig())
    total = torch.zeros(len(layouts), dtype=torch.int64)
    for index in range(LAYERS):
        seen = observation(masks, index, LAYERS, *shape)
        positions = policy.select(policy.score(seen), entries, masks)
        for row in range(len(layouts)):
            sets = kept(positions, masks, row)
            size = len(sets[0])
            assert abs(size - pyramid_budgets(seen, row, int(entries[row]))[index]) <= 1
            assert sets == snapkv_of_rule(seen, row, index, size)
            total[row] += size
    assert torch.equal(total, LAYERS * entries)


@pytest.mark.parametrize("name", ["snapkv", "h2o", "tova"])
@every_shape
@every_prompt
def test_scores_are_those_of_the_formula(name, layouts, shape):
    masks = PromptMasks.of(layouts)
    seen = observation(masks, 0, LAYERS, *shape)
    score = make(name, MethodConfig()).score(seen)
    for row in range(len(layouts)):
        attention = attention_of(seen, row)
        if name == "snapkv":
            want = torch.tensor(snapkv_by_rule(attention))
        else:
            want = attention.sum((1, 2)) if name == "h2o" else attention[:, :, -1].mean((0, 1))[None]
        got = score[row, :, masks.valid[row]][:, : want.shape[-1]]
        torch.testing.assert_close(got, want.float(), atol=1e-6, rtol=1e-5)


def by_hand(*weights):
    """One head of size 1 whose rows all have q = 1: row i pays attention in proportion to the first i + 1 weights."""
    key = torch.tensor(weights).log()[None, None, :, None]
    masks = PromptMasks.of([prompt((1, 1, len(weights) - 2), before=1, after=1)])
    return Observation(0, 3, torch.ones_like(key), key, torch.ones_like(key), None, 1.0, masks), masks


def test_streaming_llm_by_hand():
    """Text 0 and 8 stays, then 1, 2, 3 (the first four), then 7, the latest."""
    seen, masks = by_hand(*[1.0] * 9)
    policy = make("streaming-llm", MethodConfig())
    assert policy.select(policy.score(seen), 6, masks).tolist() == [[[0, 1, 2, 3, 7, 8]]]
    assert not policy.uses_question


def test_h2o_by_hand():
    """Sums 1 + 1/2 + 1/6 + 1/8, 1/2 + 1/6 + 1/8, 4/6 + 4/8, 2/8; half of four entries are the last two."""
    seen, masks = by_hand(1.0, 1.0, 4.0, 2.0)
    policy = make("h2o", MethodConfig())
    score = policy.score(seen)
    torch.testing.assert_close(score[0, 0], torch.tensor([43 / 24, 19 / 24, 28 / 24, 6 / 24]))
    assert policy.select(score, 3, masks).tolist() == [[[0, 2, 3]]]
    seen, masks = by_hand(1.0, 1.0, 4.0, 2.0, 1.0)
    assert policy.select(policy.score(seen), 4, masks).tolist() == [[[0, 2, 3, 4]]]
    assert policy.uses_question


def test_tova_by_hand():
    seen, masks = by_hand(1.0, 2.0, 5.0, 3.0, 4.0)
    policy = make("tova", MethodConfig())
    torch.testing.assert_close(policy.score(seen)[0, 0], torch.tensor([1.0, 2.0, 5.0, 3.0, 4.0]) / 15)
    assert policy.select(policy.score(seen), 4, masks).tolist() == [[[0, 2, 3, 4]]]


def test_snapkv_by_hand(monkeypatch):
    """A window of one row: attention 1, 1, 1, 1, 10, 1, 1, 4 of 20; the heavy entry lifts its two neighbours too."""
    monkeypatch.setattr(SnapKV, "window", 1)
    seen, masks = by_hand(1.0, 1.0, 1.0, 1.0, 10.0, 1.0, 1.0, 4.0)
    policy = make("snapkv", MethodConfig())
    score = policy.score(seen)
    torch.testing.assert_close(score[0, 0, :7], torch.tensor([3.0, 4.0, 14.0, 14.0, 14.0, 13.0, 12.0]) / 100)
    assert policy.select(score, 5, masks).tolist() == [[[0, 2, 3, 4, 7]]]


def test_pyramidkv_by_hand(monkeypatch):
    """w = 2 (text, of which one is the window), B = 20: from 2 + 39 over 2 + 20 down to 2 + 1."""
    monkeypatch.setattr(SnapKV, "window", 1)
    seen, masks = by_hand(*[1.0] * 60)
    policy = make("pyramidkv", MethodConfig())
    policy.score(seen)
    assert [policy.entries_of(layer, 22, masks).tolist() for layer in range(3)] == [[41], [22], [3]]
    assert [policy.entries_of(layer, 42, masks).tolist() for layer in range(3)] == [[60], [42], [24]]  # max = L - w


def test_adakv_by_hand():
    """Beside text, two entries a head: head 0 has the four best scores, no head is sure of any (20 % of 2 is none)."""
    masks = PromptMasks.of([prompt((2, 2, 4), before=1, after=WINDOW)])
    score = torch.zeros(1, 2, 23)
    score[0, 0, [2, 5, 7, 11]] = 0.5
    score[0, 1, [3, 4]] = 0.1
    policy = make("adakv", MethodConfig())
    text = [0, *range(17, 23)]
    got = kept(policy.select(score, 9, masks), masks, 0)
    assert got == [{*text, 2, 5, 7, 11}, set(text)]
    got = kept(policy.select(score, 12, masks), masks, 0)  # 20 % of five: head 1 is sure of its best
    assert got[1] >= {*text, 3}


@pytest.mark.parametrize("name", ["snapkv", "pyramidkv", "adakv", "h2o"])
def test_those_with_rows_before_the_question_get_every_row(name):
    assert observes(MethodConfig(policy=name, observe="question")) == "all"
    assert observes(MethodConfig(policy="tova", observe="video")) == "video"
