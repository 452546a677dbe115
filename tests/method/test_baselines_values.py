"""Baselines that judge by keys, values and frames: against plain loops in float64, and worked by hand."""

from dataclasses import replace

import pytest
import torch

from purekv_cli.errors import UsageError
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks, VideoLayout
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
        [[[-(sum(x * x for x in k) ** 0.5) for k in head] for head in row] for row in seen.key.double().tolist()]
    )
    torch.testing.assert_close(make("knorm", MethodConfig()).score(seen), want)


def test_knorm_worked_by_hand() -> None:
    masks = PromptMasks.of([prompt((1, 1, 3), before=1, after=1)])
    seen = by_hand([[9.0, 9.0], [3.0, 4.0], [0.0, 2.0], [1.0, 0.0], [9.0, 9.0]], [[1.0, 1.0]] * 5, masks)
    policy = make("knorm", MethodConfig())
    assert policy.score(seen)[0, 0, 1:4].tolist() == [-5.0, -2.0, -1.0]
    assert policy.select(policy.score(seen), 4, masks).tolist() == [[[0, 2, 3, 4]]]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def best(places: list[int], values: dict[int, float], count: int) -> list[int]:
    """The `count` places with the highest values, of equal ones the earlier."""
    return sorted(places, key=lambda place: (-values[place], place))[:count]


@pytest.mark.parametrize("entries", [20, 34, 45])
def test_infinipot_keeps_what_loops_over_frames_find(entries: int) -> None:
    masks = padded()
    seen = observation(masks)
    policy = make("infinipot-v", MethodConfig())
    got = policy.select(policy.score(seen), entries, masks)
    for row, layout in enumerate(PROMPTS):
        frames, height, width = layout.grid
        size, pad = height * width, LENGTH - layout.length
        place = [[int(layout.video[t * size + p]) + pad for p in range(size)] for t in range(frames)]
        video, recent = [at for frame in place for at in frame], place[-max(1, frames // 4) :]
        text = [at for at in range(pad, LENGTH) if at not in video]
        room = min(entries, layout.length) - len(text)
        for head in range(KV_HEADS):
            key, value = seen.key[row, head].double(), seen.value[row, head].double()
            novelty = {
                place[t][p]: -sum(cosine(key[place[t][p]], key[frame[p]]) for frame in recent) / len(recent)
                for t in range(frames)
                for p in range(size)
            }
            novelty |= {at: 10.0 + number for number, frame in enumerate(recent) for at in frame}
            kept = best(video, novelty, (room + 1) // 2)
            rest = [at for at in video if at not in kept]
            kept += best(rest, {at: float(value[at].norm()) for at in rest}, room - len(kept))
            stays = got[row, head]
            assert stays[stays >= 0].tolist() == sorted(text + kept)


def test_infinipot_worked_by_hand() -> None:
    """Four frames of two patches: the first patch turns in frame 1, the second never; frame 2 has a large value."""
    masks = PromptMasks.of([prompt((4, 1, 2), before=1, after=0)])
    same, turned = [1.0, 0.0], [0.0, 3.0]
    key = [same, same, same, turned, same, same, same, same, same]
    value = [[1.0, 0.0]] * 5 + [[5.0, 0.0]] + [[1.0, 0.0]] * 3
    policy = make("infinipot-v", MethodConfig())
    score = policy.score(by_hand(key, value, masks))
    assert policy.select(score, 3, masks).tolist() == [[[0, 5, 7]]]  # one place each: the latest frame, the value
    assert policy.select(score, 7, masks).tolist() == [[[0, 1, 2, 3, 5, 7, 8]]]  # 7, 8, then 3; values 5, 1, 2


def test_infinipot_judges_every_chunk_of_a_prompt_by_its_own_frames() -> None:
    whole = PromptMasks.of([prompt((6, 1, 2), before=1, after=0)])
    half = whole.map(lambda each: each[:, 7:])
    policy = make("infinipot-v", MethodConfig())
    assert policy.select(policy.score(observation(half)), 1, half)[0, :, 0].tolist() == [4, 4]


def test_infinipot_says_when_it_cannot_tell_frames_apart() -> None:
    masks = padded()
    with pytest.raises(UsageError, match="which frame"):
        make("infinipot-v", MethodConfig()).score(observation(PromptMasks(masks.video, masks.after, masks.valid)))


def attention_from(seen: Observation, row: int, query_head: int, at: int) -> torch.Tensor:
    """softmax of one query over the keys it may see, float64 [N], zero elsewhere."""
    head = query_head // (seen.query.shape[1] // KV_HEADS)
    logits = seen.key[row, head].double() @ seen.query[row, query_head, at].double() * seen.scaling
    allowed = seen.masks.valid[row] & (torch.arange(len(logits)) <= at)
    return logits.masked_fill(~allowed, float("-inf")).softmax(-1)


def asked(layout: VideoLayout, pad: int) -> range:
    """The rows after the video."""
    return range(layout.after + pad, layout.length + pad)


def test_mixkv_is_what_loops_over_keys_find() -> None:
    seen = observation(padded(), heads=6)
    got = make("mixkv", MethodConfig()).score(seen)
    for row, layout in enumerate(PROMPTS):
        pad = LENGTH - layout.length
        video, rows = layout.video + pad, asked(layout, pad)
        for head in range(KV_HEADS):
            key, value = seen.key[row, head, video].double(), seen.value[row, head, video].double()
            votes = [attention_from(seen, row, 3 * head + h, at)[video] for h in range(3) for at in rows]
            attention = sum(votes) / len(votes)
            count = len(video)
            pairs = [cosine(key[i], key[j]) for i in range(count) for j in range(count) if i != j]
            redundancy = max(0.0, sum(pairs) / len(pairs))
            terms = []
            mean = (key / key.norm(dim=-1, keepdim=True)).mean(0)
            for term in ([-float(k @ mean / k.norm()) for k in key], [float(v.norm()) for v in value]):
                low, high = min(term), max(term)
                unit = [(x - low) / (high - low) for x in term]
                factor = float(attention.mean()) / (sum(unit) / count)
                terms.append(torch.tensor([x * factor for x in unit], dtype=torch.float64))
            want = redundancy * terms[0] + (1 - redundancy) * (attention + terms[1])
            torch.testing.assert_close(got[row, head, video].double(), want, atol=1e-6, rtol=1e-4)


def test_mixkv_worked_by_hand() -> None:
    """Keys (1,0), (2,0), (0,1): cosines 1, 0, 0, so h = 1/3; their mean is (2,1)/3; q = 0 sees all alike."""
    masks = PromptMasks.of([prompt((1, 1, 3), before=0, after=1)])
    seen = by_hand([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[1.0], [3.0], [2.0], [9.0]], masks)
    got = make("mixkv", MethodConfig()).score(seen)[0, 0, :3]
    # a = 1/4; d = (0, 0, 1) with mean 1/3 becomes (0, 0, 3/4); n = (0, 1, 1/2) with mean 1/2 becomes (0, 1/2, 1/4)
    torch.testing.assert_close(got, torch.tensor([2 / 3 * 0.25, 2 / 3 * 0.75, 1 / 3 * 0.75 + 2 / 3 * 0.5]))


@pytest.mark.parametrize("name", ["mixkv", "vl-cache"])
def test_a_question_that_is_not_observed_does_not_matter(name: str) -> None:
    masks = padded()
    for observe, matters in (("question", True), ("video", False), ("all", True)):
        policies = [make(name, MethodConfig(observe=observe)) for _ in range(2)]
        seen = observation(masks, 0, 1)
        other = replace(seen, query=torch.where(masks.after[:, None, :, None], seen.query.flip(-1), seen.query))
        scores = [policy.score(each)[:, :, :52] for policy, each in zip(policies, (seen, other), strict=True)]
        assert policies[0].uses_question is matters
        assert torch.equal(*scores) is not matters


def layers_of_unlike_focus(masks: PromptMasks, layers: int = 3) -> list[Observation]:
    """Random layers of six query heads, the higher the more focused."""
    shown = [observation(masks, index, layers, heads=6) for index in range(layers)]
    return [replace(seen, query=seen.query * 1.5**seen.index) for seen in shown]


def test_vl_cache_sums_attention_and_shares_the_budget_as_loops_find() -> None:
    masks, entries = padded(), torch.tensor([38, 15])
    shown = layers_of_unlike_focus(masks)
    policy = make("vl-cache", MethodConfig())
    assert [policy.score(seen) is None for seen in shown] == [True, True, False]
    for row, layout in enumerate(PROMPTS):
        pad = LENGTH - layout.length
        rows, video = asked(layout, pad), len(layout.video)
        density = []
        for seen in shown:
            votes = [(attention_from(seen, row, head, at), at) for head in range(6) for at in rows]
            looked = sum(int((vote >= 0.01 * vote.max()).sum()) for vote, _ in votes)
            density.append(looked / sum(at - pad + 1 for _, at in votes))
            mass = torch.stack(
                [sum(vote for vote, _ in votes[g * len(votes) // 2 :][: len(votes) // 2]) for g in (0, 1)]
            )
            got = policy.score(replace(seen, query=None))[row]
            torch.testing.assert_close(got.double(), mass, atol=1e-5, rtol=1e-5)
        assert max(density) > 1.1 * min(density)
        text = layout.length - video
        alpha = (int(entries[row]) - text) / video
        beta = [min(1.0, max(0.01, part / sum(density) * alpha * 3)) for part in density]
        own = [int(policy.entries_of(index, entries, masks)[row]) for index in range(3)]
        assert sum(own) == 3 * int(entries[row])
        assert all(abs(count - text - share * video) < 1 for count, share in zip(own, beta, strict=True))


def test_vl_cache_keeps_its_mean_where_a_layer_meets_a_bound() -> None:
    """Shares 3 : 1 : 1 of a mean of 0.8: the first keeps all, the others what is left, 0.7 each."""
    masks = PromptMasks.of([prompt((10, 2, 5), before=0, after=0)])
    policy = make("vl-cache", MethodConfig())
    policy._density = [torch.tensor([part]).double() for part in (0.6, 0.2, 0.2)]
    assert [int(policy.entries_of(index, 80, masks)) for index in range(3)] == [100, 70, 70]
    policy._density = [torch.tensor([part]).double() for part in (0.999, 0.0005, 0.0005)]
    assert [int(policy.entries_of(index, 34, masks)) for index in range(3)] == [100, 1, 1]


def test_vl_cache_worked_by_hand() -> None:
    """One row, q = 1: attention 1, 2, 5, 300 and 4 of 312; of five entries three reach a hundredth of 300."""
    masks = PromptMasks.of([prompt((1, 1, 4), before=0, after=1)])
    key = torch.tensor([1.0, 2.0, 5.0, 300.0, 4.0]).log()[:, None].tolist()
    policy = make("vl-cache", MethodConfig())
    score = policy.score(by_hand(key, [[1.0]] * 5, masks, query=1.0))
    torch.testing.assert_close(score[0, 0], torch.tensor([1.0, 2.0, 5.0, 300.0, 4.0]) / 312)
    torch.testing.assert_close(policy._density[0], torch.tensor([0.6]).double())
    assert policy.select(score, 3, masks).tolist() == [[[2, 3, 4]]]


def test_vl_cache_keeps_a_tenth_for_the_latest() -> None:
    masks = PromptMasks.of([prompt((10, 2, 5), before=0, after=0)])
    policy = make("vl-cache", MethodConfig())
    seen = observation(masks, 0, 1)
    kept = policy.select(policy.score(seen), 40, masks)
    assert kept[0, :, -4:].tolist() == [[96, 97, 98, 99]] * KV_HEADS
