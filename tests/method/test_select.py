"""What stays: text always, then the best, exactly as many as the budget says."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purekv_cli.method.select import select


@st.composite
def batches(draw):
    batch, heads, length = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    score = torch.randint(0, draw(st.sampled_from([1, 3, 1000])), (batch, heads, length), generator=generator).float()
    pads = torch.tensor([draw(st.integers(0, length - 1)) for _ in range(batch)])
    valid = torch.arange(length) >= pads[:, None]
    protected = (torch.rand(batch, length, generator=generator) < 0.2) & valid
    return score, protected, valid, draw(st.integers(0, length + 2))


def kept_by_hand(score, entries, protected, valid):
    """One prompt, one head."""
    order = sorted((p for p in range(len(score)) if valid[p]), key=lambda p: (not protected[p], -float(score[p]), p))
    return sorted(order[: max(entries, int(protected.sum()))])


@settings(max_examples=200, deadline=None)
@given(batches())
def test_each_row_keeps_what_it_would_keep_alone(case):
    score, protected, valid, entries = case
    got = select(score, entries, protected, valid)
    rows = [
        [kept_by_hand(score[b, h], entries, protected[b], valid[b]) for h in range(score.shape[1])]
        for b in range(score.shape[0])
    ]
    widest = max(len(kept) for heads in rows for kept in heads)
    want = [[kept + [-1] * (widest - len(kept)) for kept in heads] for heads in rows]
    assert got.tolist() == want
    assert got.dtype == torch.int64


def test_protected_text_outlives_the_worst_score():
    score = torch.tensor([[[-5.0, 9.0, 8.0, -7.0, float("-inf")]]])
    protected = torch.tensor([[True, False, False, False, True]])
    valid = torch.ones(1, 5, dtype=torch.bool)
    assert select(score, 3, protected, valid).tolist() == [[[0, 1, 4]]]
    assert select(score, 1, protected, valid).tolist() == [[[0, 4]]]


def test_numbers_that_are_none_rank_last_and_infinite_ones_do_not_beat_text():
    score = torch.tensor([[[float("nan"), float("inf"), 0.0, 1.0]]])
    protected = torch.tensor([[False, False, False, True]])
    valid = torch.ones(1, 4, dtype=torch.bool)
    assert select(score, 1, protected, valid).tolist() == [[[3]]]
    assert select(score, 3, protected, valid).tolist() == [[[1, 2, 3]]]


def test_prompts_of_a_batch_may_have_budgets_of_their_own():
    score = torch.tensor([[[1.0, 2.0, 3.0, 4.0]], [[4.0, 3.0, 2.0, 1.0]]])
    everything = torch.ones(2, 4, dtype=torch.bool)
    got = select(score, torch.tensor([1, 3]), ~everything, everything)
    assert got.tolist() == [[[3, -1, -1]], [[0, 1, 2]]]
