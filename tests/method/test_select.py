"""What stays: text always, then the best, exactly as many as the budget says."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purekv_cli.method.select import keep_best, select


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


@settings(max_examples=200)
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


def sorted_by_score(score, entries, protected, valid):
    """The plain form: one stable sort of the scores, and another of the positions that stay."""
    extremes = torch.finfo(score.dtype)
    ranked = score.nan_to_num(nan=extremes.min, posinf=extremes.max, neginf=extremes.min)
    ranked = ranked.masked_fill((protected & valid)[:, None], float("inf")).masked_fill(~valid[:, None], float("-inf"))
    count = torch.minimum((protected & valid).sum(-1).clamp(min=entries), valid.sum(-1))
    best = ranked.sort(dim=-1, descending=True, stable=True).indices[..., : int(count.max())]
    best = best.masked_fill(torch.arange(best.shape[-1]) >= count[:, None, None], score.shape[-1]).sort(-1).values
    return best.masked_fill(best == score.shape[-1], -1)


@st.composite
def hard_scores(draw):
    numbers = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, float("nan"), float("inf"), -float("inf")])
    heads, length = draw(st.integers(1, 3)), draw(st.integers(1, 12))
    drawn = draw(st.lists(numbers, min_size=heads * length, max_size=heads * length))
    return torch.tensor(drawn, dtype=torch.float32).view(1, heads, length)


@settings(max_examples=200)
@given(score=hard_scores(), data=st.data())
def test_ties_zeros_of_both_signs_and_no_numbers_rank_as_in_a_stable_sort(score, data):
    length = score.shape[-1]
    protected = torch.tensor([data.draw(st.lists(st.booleans(), min_size=length, max_size=length))])
    valid = torch.tensor([data.draw(st.lists(st.booleans(), min_size=length, max_size=length))])
    entries = data.draw(st.integers(0, length + 2))
    want = sorted_by_score(score, entries, protected, valid)
    assert torch.equal(select(score, entries, protected, valid), want)
    assert torch.equal(keep_best(score, want.shape[-1], protected, valid), want)


def test_all_and_none():
    score, text = torch.rand(2, 3, 5), torch.zeros(2, 5, dtype=torch.bool)
    assert torch.equal(keep_best(score, 5, text, ~text), torch.arange(5).expand(2, 3, 5))
    assert keep_best(score, 0, text, ~text).shape == (2, 3, 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_known_number_needs_no_waiting():
    """Captured as a graph, which any wait for the device would break; same set as on the CPU."""
    score = torch.randint(0, 50, (1, 4, 5000), generator=torch.Generator().manual_seed(0)).float()
    text = torch.arange(5000)[None] >= 4990
    valid = torch.arange(5000)[None] >= 7
    masks = text.cuda(), valid.cuda()
    on_gpu = score.cuda()
    keep_best(on_gpu, 1000, *masks)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = keep_best(on_gpu, 1000, *masks)
    graph.replay()
    assert torch.equal(kept.cpu(), keep_best(score, 1000, text, valid))
