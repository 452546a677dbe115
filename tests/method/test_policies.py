"""Every policy: the contract they share, and what each scores, worked by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from purekv_cli.errors import UsageError
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies import POLICIES, Observation, drops_preamble, make
from tests.method.prompts import observation, prompt

LAYERS = 4
every_policy = pytest.mark.parametrize("name", sorted(POLICIES))


def attention_of(seen):
    """softmax(q k^T) of every head and row, [B, Hq, N, N], in float64."""
    key = seen.key.double().repeat_interleave(seen.query.shape[1] // seen.key.shape[1], 1)
    scores = torch.einsum("bhid,bhjd->bhij", seen.query.double(), key) * seen.scaling
    length = seen.key.shape[2]
    allowed = torch.ones(length, length, dtype=torch.bool).tril() & seen.masks.valid[:, None, None]
    return scores.masked_fill(~allowed, float("-inf")).softmax(-1).nan_to_num(0.0)


def kept(policy, masks, entries, layers=LAYERS, **kwargs):
    """The sets of all layers, asked as the engine asks."""
    return chosen(policy, [observation(masks, index, layers, **kwargs) for index in range(layers)], entries)


def chosen(policy, layers, entries):
    """The sets of the layers shown; those without a score are asked again once a later one has it."""
    sets, waiting = [None] * len(layers), []
    for index, seen in enumerate(layers):
        score = policy.score(seen)
        if score is None:
            waiting.append(index)
            continue
        sets[index] = policy.select(score, entries, seen.masks)
        for below in waiting:
            late = policy.score(replace(layers[below], query=None))
            sets[below] = policy.select(late, entries, seen.masks)
        waiting.clear()
    return sets


def test_the_registry_knows_its_policies():
    assert set(POLICIES) >= {"purekv", "purekv-paper", "dense", "random"}
    for name, policy in POLICIES.items():
        assert policy.name == name
        assert policy.summary.endswith(".")
        assert policy.source
    assert make("purekv", MethodConfig()).uses_question


def test_an_unknown_policy_gets_a_suggestion():
    with pytest.raises(UsageError, match="no policy named 'purkv'") as error:
        make("purkv", MethodConfig())
    assert error.value.hint == "Did you mean 'purekv'?"


@every_policy
def test_sets_hold_all_text_and_exactly_the_budget(name):
    masks = PromptMasks.of([prompt((3, 2, 3), before=3, after=4), prompt((2, 2, 3), before=2, after=3)])
    sets = kept(make(name, MethodConfig()), masks, 12)
    for positions in sets:
        assert positions.shape[0] == 2
        assert positions.shape[1] in (1, 2)
        for row, heads in enumerate(positions):
            for one in heads:
                stays = one[one >= 0]
                assert (stays.diff() > 0).all()
                assert set(masks.protected[row].nonzero()[:, 0].tolist()) <= set(stays.tolist())
                if name != "vl-cache":  # whose layers keep 12 on average
                    assert len(stays) == (int(masks.valid[row].sum()) if name == "dense" else 12)
    if name == "vl-cache":
        assert (sum((positions >= 0).sum(-1) for positions in sets) == 12 * LAYERS).all()


@every_policy
@pytest.mark.parametrize("observe", ["question", "video", "all"])
def test_a_prompt_keeps_the_same_alone_and_beside_a_longer_one(name, observe):
    short, long = prompt((2, 2, 3), before=2, after=3), prompt((4, 2, 3), before=3, after=5)
    config = MethodConfig(observe=observe)
    pad = long.length - short.length
    alone_masks, both_masks = PromptMasks.of([short]), PromptMasks.of([long, short])
    both = [observation(both_masks, index, LAYERS) for index in range(LAYERS)]
    alone = [
        replace(
            beside,
            query=beside.query[1:, :, pad:],
            key=beside.key[1:, :, pad:],
            value=beside.value[1:, :, pad:],
            masks=alone_masks,
            rotary=replace(beside.rotary, cos=beside.rotary.cos[1:, pad:], sin=beside.rotary.sin[1:, pad:]),
        )
        for beside in both
    ]
    for want, got in zip(chosen(make(name, config), alone, 9), chosen(make(name, config), both, 9), strict=True):
        assert torch.equal(got[1][got[1] >= 0] - pad, want[0][want[0] >= 0])


@every_policy
@pytest.mark.parametrize("after", [0, 1])
def test_a_video_without_a_question_can_be_pruned(name, after):
    masks = PromptMasks.of([prompt((30, 1, 2), before=2, after=after)])
    sizes = [positions.shape[-1] for positions in kept(make(name, MethodConfig()), masks, 10)]
    assert sum(sizes) == LAYERS * (62 + after if name == "dense" else 10)


@pytest.mark.parametrize("name", ["purekv", "purekv-paper"])
def test_a_question_that_is_not_observed_does_not_matter(name):
    masks = PromptMasks.of([prompt((6, 2, 3), before=2, after=5)])
    for observe, matters in (("question", True), ("video", False), ("all", True)):
        policies = [make(name, MethodConfig(observe=observe)) for _ in range(2)]
        seen = observation(masks)
        other = replace(seen, query=torch.where(masks.after[:, None, :, None], seen.query.flip(-1), seen.query))
        scores = [policy.score(each)[..., :38] for policy, each in zip(policies, (seen, other), strict=True)]
        assert policies[0].uses_question is matters
        assert torch.equal(*scores) is not matters


@pytest.mark.parametrize(
    ("carry", "observe", "heard"),
    [(1.0, "question", 1.0), (0.3, "question", 0.3), (0.0, "question", 0.0), (0.3, "template", 1.0)],
)
def test_purekv_takes_the_largest_attention_of_any_text_row_and_head_and_a_share_of_the_layer_below(
    carry, observe, heard
):
    masks = PromptMasks.of([prompt((3, 2, 2), before=2, after=3)])
    policy, so_far = make("purekv", MethodConfig(carry=carry, observe=observe)), torch.zeros(17).double()
    for index in range(LAYERS):
        seen = observation(masks, index, LAYERS)
        so_far = torch.maximum(heard * so_far, attention_of(seen)[0, :, 14:].amax((0, 1)))
        got = policy.score(seen)
        assert got.shape == (1, 1, 17)
        torch.testing.assert_close(got[0, 0].double(), so_far, atol=1e-6, rtol=1e-5)


def test_purekv_worked_by_hand():
    """One head of size 1; the question's only row has q = 1, so its softmax is exp(k) / sum exp(k)."""
    layout = prompt((1, 1, 3), before=1, after=1)
    masks = PromptMasks.of([layout])
    key = torch.tensor([1.0, 2.0, 5.0, 3.0, 4.0]).log()[None, None, :, None]
    seen = Observation(0, 1, torch.ones(1, 1, 5, 1), key, torch.ones(1, 1, 5, 1), None, 1.0, masks)
    policy = make("purekv", MethodConfig())
    score = policy.score(seen)
    torch.testing.assert_close(score[0, 0], torch.tensor([1.0, 2.0, 5.0, 3.0, 4.0]) / 15)
    assert policy.select(score, 4, masks).tolist() == [[[0, 2, 3, 4]]]


def test_purekv_takes_the_last_rows_alone_when_a_prompt_came_in_chunks():
    masks = PromptMasks.of([prompt((3, 2, 2), before=2, after=3)])
    seen = observation(masks)
    whole = make("purekv", MethodConfig()).score(seen)
    tail = make("purekv", MethodConfig()).score(replace(seen, query=seen.query[:, :, -5:]))
    torch.testing.assert_close(tail, whole)


def test_purekv_with_one_set_waits_for_the_last_layer():
    masks = PromptMasks.of([prompt((3, 2, 2), before=2, after=3)])
    policy, running = make("purekv", MethodConfig(one_set=True)), make("purekv", MethodConfig())
    for index in range(LAYERS):
        seen = observation(masks, index, LAYERS)
        score, last = policy.score(seen), running.score(seen)
        assert (score is None) == (index < LAYERS - 1)
    for index in range(LAYERS):
        waited = replace(observation(masks, index, LAYERS), query=None)
        assert torch.equal(policy.score(waited), last)


def test_purekv_normalised_hears_every_layer_alike():
    """A layer whose rows look mostly at text still ranks the video."""
    masks = PromptMasks.of([prompt((3, 2, 2), before=2, after=3)])
    policy = make("purekv", MethodConfig(normalise=True))
    shares = policy.score(observation(masks))
    torch.testing.assert_close(shares[0, 0, 2:14].sum(), torch.tensor(1.0))


def test_paper_multiplies_low_mass_with_each_layers_value_norms():
    masks = PromptMasks.of([prompt((3, 2, 2), before=2, after=3)])
    policy = make("purekv-paper", MethodConfig(policy="purekv-paper", observe="all", score_layers=(0, 2)))
    mass = None
    for index in range(LAYERS):
        seen = observation(masks, index, LAYERS)
        if index in (0, 2):
            mass = attention_of(seen)[0].unflatten(0, (2, 2)).sum((1, 2))
        want = mass * seen.value[0].double().norm(dim=-1)
        torch.testing.assert_close(policy.score(seen)[0].double(), want, atol=1e-5, rtol=1e-5)
        assert policy.needs_lse(index) is (index in (0, 2))


def test_paper_uses_the_lse_it_asked_for():
    masks = PromptMasks.of([prompt((3, 2, 2), before=2, after=3)])
    seen = observation(masks)
    plain = make("purekv-paper", MethodConfig()).score(seen)
    lse = torch.zeros(1, 4, 17)
    doubled = make("purekv-paper", MethodConfig()).score(replace(seen, lse=lse))
    halved = make("purekv-paper", MethodConfig()).score(replace(seen, lse=lse + torch.tensor(2.0).log()))
    torch.testing.assert_close(doubled, 2 * halved)
    assert not torch.allclose(plain, doubled)


def test_paper_layers_below_the_first_score_layer_wait_for_it():
    masks = PromptMasks.of([prompt((3, 2, 2), before=2, after=3)])
    policy = make("purekv-paper", MethodConfig(score_layers=(1, 3)))
    low = observation(masks, 0, LAYERS)
    assert policy.score(low) is None
    first = observation(masks, 1, LAYERS)
    at_first = policy.score(first)
    policy.score(observation(masks, 3, LAYERS))
    again = policy.score(replace(low, query=None))
    norm = torch.linalg.vector_norm
    torch.testing.assert_close(again, at_first / norm(first.value, dim=-1) * norm(low.value, dim=-1))


@pytest.mark.parametrize(
    ("layers", "message"), [((), "cannot work"), ((-1,), "cannot work"), ((2, 9), "does not exist")]
)
def test_paper_refuses_score_layers_that_are_not_there(layers, message):
    masks = PromptMasks.of([prompt((1, 1, 2))])
    with pytest.raises(UsageError, match=message):
        make("purekv-paper", MethodConfig(score_layers=layers)).score(observation(masks))


def test_random_is_one_lot_for_all_layers_and_repeats_with_its_seed():
    masks = PromptMasks.of([prompt((6, 4, 4))])
    sets = kept(make("random", MethodConfig(seed=3)), masks, 40)
    assert all(torch.equal(one, sets[0]) for one in sets)
    assert torch.equal(kept(make("random", MethodConfig(seed=3)), masks, 40)[0], sets[0])
    assert not torch.equal(kept(make("random", MethodConfig(seed=4)), masks, 40)[0], sets[0])


def test_random_favours_no_place():
    masks = PromptMasks.of([prompt((10, 2, 5), before=0, after=0)])
    counts = torch.zeros(100)
    for seed in range(300):
        counts[kept(make("random", MethodConfig(seed=seed)), masks, 20, layers=1)[0][0, 0]] += 1
    assert counts.min() > 25
    assert counts.max() < 100


def test_dense_keeps_everything_whatever_the_budget():
    masks = PromptMasks.of([prompt((2, 2, 2)), prompt((1, 2, 2))])
    positions = kept(make("dense", MethodConfig()), masks, 1)[0]
    assert positions.tolist() == [[list(range(15))], [[*range(4, 15), -1, -1, -1, -1]]]


def test_the_document_lists_every_policy_as_it_describes_itself():
    document = (Path(__file__).parents[2] / "docs" / "policies.md").read_text("utf-8")
    rows = [line for line in document.splitlines() if line.startswith("| ")][1:]
    assert rows == [f"| {name} | {policy.summary} | {policy.source} |" for name, policy in POLICIES.items()]


def test_only_purekv_drops_text_and_only_where_it_crowds_the_budget():
    config = MethodConfig(preamble_layers=(0, 2))
    assert drops_preamble(config, 4, preamble=15, entries=52, prompt=1050) == [False, True, False, True]
    assert drops_preamble(config, 4, preamble=15, entries=210, prompt=1050) == [False] * 4, "under a tenth of it"
    assert drops_preamble(config, 4, preamble=15, entries=30, prompt=30) == [False] * 4, "everything stays"
    assert drops_preamble(replace(config, preamble_layers=None), 4, 15, 52, 1050) == [False] * 4
    for policy in set(POLICIES) - {"purekv"}:
        assert drops_preamble(replace(config, policy=policy), 4, 15, 52, 1050) == [False] * 4
    with pytest.raises(UsageError, match="layers 0 to 1"):
        drops_preamble(config, 2, 15, 52, 1050)
