"""FastV and FastKV: which tokens flow on, how many, and what every layer keeps of the same bytes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies import POLICIES, make
from purekv_cli.method.policies.base import dropping
from tests.method.prompts import observation, prompt


def kept_by_fastv(masks, layers, entries):
    """The sets of all layers and the tokens that flow, asked as the engine asks."""
    policy = make("fastv", MethodConfig())
    sets, waiting, flows = [], [], None
    for index in range(layers):
        seen = observation(masks, index, layers)
        score = policy.score(seen)
        if score is None:
            waiting.append(seen)
            continue
        own = policy.select(score, entries, masks)
        for below in waiting:
            sets.append(policy.select(policy.score(below), entries, masks))
        waiting.clear()
        sets.append(own)
        if index == policy.ends_at(layers):
            flows = policy.flows(score, entries, masks)
    return sets, flows


def test_fastv_ranks_by_the_last_tokens_attention_in_layer_1():
    masks = PromptMasks.of([prompt((4, 2, 3), before=2, after=3)])
    _, flows = kept_by_fastv(masks, 8, 10)
    seen = observation(masks, 1, 8)
    keys = seen.key[0].double().repeat_interleave(2, 0)
    last = (keys @ seen.query[0, :, -1].double()[..., None])[..., 0] * seen.scaling
    attention = last.softmax(-1).mean(0)
    best = sorted(range(2, 26), key=lambda j: -float(attention[j]))[:5]
    assert flows[0].nonzero().flatten().tolist() == sorted([0, 1, *best, 26, 27, 28])


@pytest.mark.parametrize(
    ("layers", "entries", "below", "above"),
    [
        (8, 10, 10, 10),  # 2 of 8 layers are 58 of 80 entries: every layer keeps 10
        (8, 20, 29, 17),  # 58 of 160: (160 - 58) / 6
        (28, 5, 5, 5),  # 58 of 140: whole would leave (140 - 58) / 26 = 3, no more than the text
        (28, 6, 29, 4),
        (2, 20, 20, 20),
        (1, 20, 20, 20),
    ],
)
def test_fastv_keeps_lower_layers_whole_where_bytes_allow(layers, entries, below, above):
    """29 tokens of which 3 are text."""
    masks = PromptMasks.of([prompt((13, 1, 2), before=1, after=2)])
    sets, flows = kept_by_fastv(masks, layers, entries)
    assert [positions.shape[-1] for positions in sets] == [below] * min(2, layers) + [above] * max(0, layers - 2)
    assert int(flows.sum()) == above
    for positions in sets[2:]:
        assert torch.equal(positions[0, 0], flows[0].nonzero().flatten())


@given(st.integers(3, 40), st.integers(1, 30), st.integers(1, 6), st.data())
def test_fastv_never_keeps_more_than_the_budget(layers, video, text, data):
    masks = PromptMasks.of([prompt((video, 1, 1), before=text, after=1)])
    entries = data.draw(st.integers(text + 2, text + video + 1))
    policy = make("fastv", MethodConfig())
    policy._layers = layers
    count, whole = policy._counts(entries, masks)
    lower = video + text + 1 if bool(whole) else int(count)
    total = 2 * lower + (layers - 2) * int(count)
    assert layers * (entries - 1) < total <= layers * entries
    assert int(count) > text + 1


@pytest.mark.parametrize("entries", [12, 20])
def test_fastkv_lets_a_quarter_flow_or_what_the_budget_keeps(entries):
    masks = PromptMasks.of([prompt((8, 2, 4), before=2, after=3), prompt((3, 2, 4), before=2, after=3)])
    policy = make("fastkv", MethodConfig())
    policy.window = 4
    seen = observation(masks, 3, 8)
    score = policy.score(seen)
    flows = policy.flows(score, entries, masks)
    for row, length in enumerate((69, 29)):
        count = max(entries, length // 4)
        text = masks.protected[row].nonzero().flatten().tolist()
        window = list(range(65, 69))
        both, must = (score[row, 0] + score[row, 1]).tolist(), {*text, *window}
        rest = sorted(set(masks.valid[row].nonzero().flatten().tolist()) - must, key=lambda j: -both[j])
        assert set(flows[row].nonzero().flatten().tolist()) == must | set(rest[: count - len(must)])


def test_those_that_end_tokens_inside_the_model_say_so():
    named = {name for name, policy in POLICIES.items() if dropping(policy(MethodConfig())) is not None}
    assert named == {"fastv", "fastkv"}
    assert [make("fastkv", MethodConfig()).ends_at(layers) for layers in (1, 2, 8, 32)] == [0, 0, 3, 15]
    assert [make("fastv", MethodConfig()).ends_at(layers) for layers in (1, 2, 8)] == [0, 1, 1]
