"""The main property: generating on a pruned cache is generating on the full one with -inf at the pruned places.

Compared are the logits of every step, in float32, for every policy, chunked or whole, dense or sparse, alone or in a
left-padded batch, with beams and in a second turn.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import PreTrainedModel

from purekv_cli.errors import UsageError
from purekv_cli.method import pattern as pattern_module
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig, SparseConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.pattern import build, content_change
from purekv_cli.method.policies import POLICIES
from purekv_cli.method.policies.snapkv import SnapKV
from purekv_cli.runtime.attach import Attached, attach
from tests.runtime.masked import NEVER, gone_from, masked_logits
from tests.runtime.tiny import (
    DEVICE,
    TEXT_FAMILIES,
    VIDEO,
    VIDEO_FAMILIES,
    Clip,
    batch,
    clip,
    tiny_model,
)
from tests.runtime.uneven import Uneven

LAYERS = 4
STEPS = 6
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def uneven(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more policy, for these tests alone, and a window that is shorter than these prompts."""
    monkeypatch.setitem(POLICIES, Uneven.name, Uneven)
    monkeypatch.setattr(SnapKV, "window", 7)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model(layers=LAYERS)


def method(policy: str = "uneven", **dials: Any) -> MethodConfig:
    return MethodConfig(policy=policy, budget=Budget("fraction", 0.6), score_layers=(1, 2), **dials)


def whole(prompts: Clip) -> Callable[[int], int]:
    """Everything is pruned at the end of the prompt."""
    return lambda position: prompts.length


def generate(model: PreTrainedModel, prompts: Clip, **dials: Any) -> Any:
    settings = {"max_new_tokens": STEPS, "do_sample": False} | dials
    return model.generate(**prompts.inputs, **settings, output_logits=True, return_dict_in_generate=True)


def differs(
    model: PreTrainedModel,
    prompts: Clip,
    attached: Attached,
    out: Any,
    end: Callable[[int], int] | None = None,
    pattern: list[Tensor | None] | None = None,
) -> float:
    """The largest difference of any logit at any step."""
    gone = gone_from(attached.kept, prompts.length, end or whole(prompts))
    truth = masked_logits(model, prompts, out.sequences, gone, pattern)[:, prompts.length - 1 : -1]
    return (torch.stack(out.logits, 1) - truth).abs().max().item()


def prunes(attached: Attached, length: int) -> bool:
    """Whether each layer dropped something: a comparison of full caches would prove nothing."""
    return all(((k >= 0) & (k < length)).sum(-1).max() < length for k in attached.kept)


@pytest.mark.parametrize("policy", ["uneven", "purekv", "purekv-paper", "random"])
@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_every_family_and_policy(family: str, policy: str) -> None:
    model = tiny_model(family, LAYERS)
    prompts = clip(model)
    with attach(model, method(policy)) as attached:
        out = generate(model, prompts)
    assert prunes(attached, prompts.length)
    assert differs(model, prompts, attached, out) < TOLERANCE


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_a_text_model_with_a_layout_given(family: str) -> None:
    model = tiny_model(family, LAYERS)
    prompts = clip(model)
    with attach(model, method(), layout=prompts.layouts) as attached:
        out = generate(model, prompts)
    assert prunes(attached, prompts.length)
    assert differs(model, prompts, attached, out) < TOLERANCE


def test_the_comparison_sees_a_single_wrong_entry(model: PreTrainedModel) -> None:
    prompts = clip(model)
    with attach(model, method("random")) as attached:
        out = generate(model, prompts)
    gone = gone_from(attached.kept, prompts.length, whole(prompts))
    gone[1][0, 0, int((gone[1][0, 0] == NEVER).nonzero()[6])] = prompts.length
    truth = masked_logits(model, prompts, out.sequences, gone)[:, prompts.length - 1 : -1]
    assert (torch.stack(out.logits, 1) - truth).abs().max() > 10 * TOLERANCE


@pytest.mark.parametrize("policy", ["uneven", "purekv", "purekv-paper", "random", "dense", "pyramidkv", "adakv"])
def test_left_padded_batch(model: PreTrainedModel, policy: str) -> None:
    prompts = batch(clip(model, question=9, seed=1), clip(model, frames=4, question=3, seed=2), clip(model, seed=3))
    with attach(model, method(policy)) as attached:
        out = generate(model, prompts)
    assert differs(model, prompts, attached, out) < TOLERANCE


@pytest.mark.parametrize("policy", ["purekv", "purekv-paper", "random"])
def test_a_prompt_keeps_the_same_alone_and_beside_others(model: PreTrainedModel, policy: str) -> None:
    alone, other = clip(model, frames=4, question=4, seed=1), clip(model, question=9, seed=2)
    with attach(model, method(policy)) as attached:
        generate(model, alone)
        single = attached.kept
        generate(model, batch(alone, other))
        pad = other.length - alone.length
        for mine, both in zip(single, attached.kept, strict=True):
            row = both[0, 0]
            assert (row[row >= 0] - pad).tolist() == mine[0, 0].tolist()


@pytest.mark.parametrize("policy", ["uneven", "purekv", "purekv-paper", "random", "h2o", "adakv", "vl-cache"])
@pytest.mark.parametrize("chunk", [7, 16, 1000])
def test_chunked_prefill(model: PreTrainedModel, policy: str, chunk: int) -> None:
    prompts = clip(model)
    judged_by_chunk = policy in ("uneven", "random")
    with attach(model, method(policy, chunk=chunk)) as attached:
        out = generate(model, prompts)

    def end(position: int) -> int:
        return min(prompts.length, (position // chunk + 1) * chunk) if judged_by_chunk else prompts.length

    assert prunes(attached, prompts.length)
    assert differs(model, prompts, attached, out, end) < TOLERANCE


@pytest.mark.parametrize("chunk", [None, 16])
@pytest.mark.parametrize("observe", ["question", "video"])
def test_layers_that_share_the_budget_by_weight(model: PreTrainedModel, chunk: int | None, observe: str) -> None:
    weights = tuple(float(2**index) for index in range(LAYERS))
    prompts = batch(clip(model, question=9, seed=1), clip(model, frames=4, question=3, seed=2))
    dials = {"observe": observe, "chunk": chunk}
    with attach(model, method("purekv", **dials)) as attached:
        generate(model, prompts)
        equal = sum(int(((k >= 0) & (k < prompts.length)).sum()) for k in attached.kept)
    with attach(model, method("purekv", layer_weights=weights, **dials)) as attached:
        out = generate(model, prompts)
    counts = [int(((k >= 0) & (k < prompts.length)).sum()) for k in attached.kept]
    assert sum(counts) == equal
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    if chunk is None or observe == "question":
        assert differs(model, prompts, attached, out) < TOLERANCE


@pytest.mark.parametrize("chunk", [None, 5, 16])
@pytest.mark.parametrize("observe", ["question", "video"])
@pytest.mark.parametrize("crowded", [(True, True), (False, True)], ids=["both prompts", "the short prompt"])
def test_layers_that_do_without_the_text_before_the_video(
    model: PreTrainedModel, chunk: int | None, observe: str, crowded: tuple[bool, bool]
) -> None:
    prompts = batch(clip(model, question=9, seed=1), clip(model, frames=4, question=3, seed=2))
    masks = PromptMasks.of(prompts.layouts)
    long, short = (masks.preamble.sum(-1) / (0.6 * masks.valid.sum(-1))).tolist()  # of the budget
    assert 0 < long < short
    dials = {"preamble_layers": (0, 2), "preamble_share": 0.0 if crowded[0] else (long + short) / 2}
    with attach(model, method("purekv", observe=observe, chunk=chunk, **dials)) as attached:
        out = generate(model, prompts)
    for index, places in enumerate(attached.kept):
        for row, text in enumerate(masks.preamble):
            gone = text if crowded[row] and index not in (0, 2) else torch.zeros_like(text)
            kept = set(places[row, 0].tolist())
            assert kept.isdisjoint(gone.nonzero()[:, 0].tolist())
            assert kept.issuperset((masks.protected[row] & ~gone).nonzero()[:, 0].tolist())
    if chunk is None or observe == "question":
        assert differs(model, prompts, attached, out) < TOLERANCE


def test_weights_of_another_model_are_refused(model: PreTrainedModel) -> None:
    with (
        attach(model, method("purekv", layer_weights=(1.0,) * (LAYERS + 1))),
        pytest.raises(UsageError, match="layers"),
    ):
        generate(model, clip(model))


def test_one_set_for_all_layers(model: PreTrainedModel) -> None:
    """Every layer waits for the last one, then all keep the same."""
    prompts = clip(model)
    with attach(model, method("purekv", one_set=True)) as attached:
        out = generate(model, prompts)
    assert len({tuple(head.tolist()) for places in attached.kept for head in places[0]}) == 1
    assert prunes(attached, prompts.length)
    assert differs(model, prompts, attached, out) < TOLERANCE


@pytest.mark.parametrize("observe", ["question", "video", "all"])
def test_a_policy_that_waits_for_the_question_keeps_the_same_in_chunks(model: PreTrainedModel, observe: str) -> None:
    prompts = clip(model, question=9)
    kept = []
    for chunk in (None, 5):
        with attach(model, method("purekv", observe=observe, chunk=chunk)) as attached:
            generate(model, prompts)
            kept.append([places.tolist() for places in attached.kept])
    assert (kept[0] == kept[1]) is (observe != "video")  # the video's own rows judge chunk by chunk


@pytest.mark.parametrize("policy", ["h2o", "snapkv", "pyramidkv", "adakv", "tova"])
def test_rows_before_the_question_are_there_in_chunks(model: PreTrainedModel, policy: str) -> None:
    prompts = batch(clip(model, question=2, seed=1), clip(model, frames=4, question=3, seed=2))
    kept = []
    for chunk in (None, 5):
        with attach(model, method(policy, chunk=chunk)) as attached:
            generate(model, prompts)
            kept.append([places.tolist() for places in attached.kept])
    assert kept[0] == kept[1]


@pytest.mark.parametrize("policy", ["uneven", "random"])
def test_chunked_left_padded_batch(model: PreTrainedModel, policy: str) -> None:
    prompts = batch(clip(model, question=9, seed=1), clip(model, frames=4, question=3, seed=2))
    with attach(model, method(policy, chunk=8)) as attached:
        out = generate(model, prompts)
    end = lambda position: min(prompts.length, (position // 8 + 1) * 8)  # noqa: E731
    assert differs(model, prompts, attached, out, end) < TOLERANCE


@pytest.mark.parametrize("policy", ["uneven", "purekv", "purekv-paper", "random", "dense"])
def test_sparse_prefill(model: PreTrainedModel, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pattern_module, "ROWS", 4)  # query tiles as small as this video
    prompts = clip(model, frames=12)
    sparse = SparseConfig(min_tokens=1, tile=(2, 2), recent=1, content=0.1)
    config = method(policy, sparse=sparse)
    with attach(model, config) as attached:
        out = generate(model, prompts)
        assert attached.sparse
    with torch.no_grad():
        features = model.get_video_features(prompts.inputs["pixel_values_videos"], prompts.inputs["video_grid_thw"])
    layout = prompts.layouts[0]
    runs = build(layout, sparse, content_change(torch.cat(list(features.pooler_output)), layout.grid))
    mask = runs.dense_mask()
    assert mask.float().mean() < 0.45  # the pattern leaves something out
    dense_layers = {"uneven": {0}, "purekv-paper": {1, 2}}.get(policy, set())
    pattern = [None if index in dense_layers else mask for index in range(LAYERS)]
    assert differs(model, prompts, attached, out, pattern=pattern) < TOLERANCE


@pytest.mark.parametrize("policy", ["uneven", "purekv"])
def test_beams_as_in_the_masked_model(model: PreTrainedModel, policy: str) -> None:
    """Every beam's score is the sum of its tokens' log-probabilities under the mask."""
    prompts = clip(model)
    with attach(model, method(policy)) as attached:
        out = generate(model, prompts, num_beams=3, num_return_sequences=3, output_scores=True, length_penalty=0.0)
    kept = [places[:1].expand(3, -1, -1) for places in attached.kept]
    gone = gone_from(kept, prompts.length, whole(prompts))
    beams = batch(*[prompts] * 3)
    logits = masked_logits(model, beams, out.sequences, gone)[:, prompts.length - 1 : -1]
    new = out.sequences[:, prompts.length :, None]
    truth = logits.log_softmax(-1).gather(-1, new).sum((1, 2))
    assert (out.sequences_scores - truth).abs().max() < TOLERANCE * STEPS


def test_sampling_draws_the_same_as_from_the_dense_model_when_nothing_is_pruned(model: PreTrainedModel) -> None:
    prompts = clip(model)
    with attach(model, method("dense")):
        torch.manual_seed(3)
        ours = generate(model, prompts, do_sample=True, num_return_sequences=2)
        torch.manual_seed(3)
        again = generate(model, prompts, do_sample=True, num_return_sequences=2)
    assert ours.sequences.shape[0] == 2
    assert torch.equal(ours.sequences, again.sequences)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("policy", ["uneven", "purekv"])
def test_second_turn(model: PreTrainedModel, policy: str, padded: bool) -> None:
    prompts = batch(clip(model, seed=1), clip(model, question=3, seed=2)) if padded else clip(model)
    rows = prompts.inputs["input_ids"].shape[0]
    with attach(model, method(policy)) as attached:
        first = generate(model, prompts)
        more = torch.randint(20, 300, (rows, 5), generator=torch.Generator().manual_seed(4)).to(DEVICE)
        ids = torch.cat([first.sequences, more], 1)
        mask = torch.nn.functional.pad(prompts.inputs["attention_mask"], (0, ids.shape[1] - prompts.length), value=1)
        second = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=first.past_key_values,
            max_new_tokens=STEPS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        assert attached.cache is first.past_key_values
        assert attached.cache.get_seq_length() == ids.shape[1] + STEPS - 1
    gone = gone_from(attached.kept, prompts.length, whole(prompts))
    truth = masked_logits(model, prompts, second.sequences, gone)[:, ids.shape[1] - 1 : -1]
    assert (torch.stack(second.logits, 1) - truth).abs().max() < TOLERANCE


@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("policy", ["uneven", "purekv", "purekv-paper"])
def test_a_question_over_what_a_prompt_without_one_has_kept(
    model: PreTrainedModel, policy: str, chunk: int | None
) -> None:
    """Observe "template" by hand: the text after the video is forgotten, and other text is read in its place."""
    prompts = clip(model, question=3)
    prefix = prompts.layouts[0].after + 1
    asked = torch.randint(20, 300, (1, 9), generator=torch.Generator().manual_seed(4)).to(DEVICE)
    ids = torch.cat([prompts.inputs["input_ids"][:, :prefix], asked], 1)
    with attach(model, method(policy, observe="template", chunk=chunk)) as attached:
        with torch.no_grad():
            cache = model(**prompts.inputs).past_key_values
        assert prunes(attached, prompts.length)
        cache.forget(prefix)
        out = model.generate(
            input_ids=ids,
            past_key_values=cache,
            max_new_tokens=STEPS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        assert attached.cache is cache

    def end(position: int) -> int:
        return min(prefix, (position // chunk + 1) * chunk) if chunk and policy == "uneven" else prefix

    gone = gone_from([places[..., places.amax((0, 1)) < prefix] for places in attached.kept], prefix, end)
    truth = masked_logits(model, prompts, out.sequences, gone)[:, ids.shape[1] - 1 : -1]
    assert (torch.stack(out.logits, 1) - truth).abs().max() < TOLERANCE


@pytest.mark.parametrize("padded", [False, True])
def test_bare_forward_loop(model: PreTrainedModel, padded: bool) -> None:
    """No generate, no positions, no cache given: the model is simply called."""
    prompts = batch(clip(model, seed=1), clip(model, question=3, seed=2)) if padded else clip(model)
    mask, tokens, logits = prompts.inputs["attention_mask"], [], []
    with attach(model, method()) as attached, torch.no_grad():
        out = model(**prompts.inputs)
        for _ in range(STEPS):
            logits.append(out.logits[:, -1])
            tokens.append(logits[-1].argmax(-1, keepdim=True))
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            out = model(input_ids=tokens[-1], attention_mask=mask, past_key_values=out.past_key_values)
    sequences = torch.cat([prompts.inputs["input_ids"], *tokens], 1)
    gone = gone_from(attached.kept, prompts.length, whole(prompts))
    truth = masked_logits(model, prompts, sequences, gone)[:, prompts.length - 1 : -1]
    assert (torch.stack(logits, 1) - truth).abs().max() < TOLERANCE


def test_several_videos_are_all_prunable(model: PreTrainedModel) -> None:
    one, two = clip(model, frames=4, seed=1), clip(model, seed=2)
    inputs = {key: torch.cat([one.inputs[key], two.inputs[key]], -1) for key in ("input_ids", "attention_mask")}
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == VIDEO).long() * 2
    for key in ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts"):
        inputs[key] = torch.cat([one.inputs[key], two.inputs[key]])
    with attach(model, method("purekv")) as attached:
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
        text = (inputs["input_ids"][0] != VIDEO).nonzero().flatten().tolist()
        for places in attached.kept:
            assert set(text) <= set(places[0, 0].tolist())
            assert places.shape[-1] - 1 == int(0.6 * inputs["input_ids"].shape[1])


@pytest.mark.parametrize("policy", ["purekv", "random"])
def test_chunks_cut_by_generate_itself(model: PreTrainedModel, policy: str) -> None:
    """`generate(prefill_chunk_size=...)` of transformers that encode the video beforehand."""
    if Version(transformers.__version__) < Version("5.23"):
        pytest.skip("this transformers cannot prefill videos in chunks")
    prompts = clip(model)
    with attach(model, method(policy)) as attached:
        out = generate(model, prompts, prefill_chunk_size=16)

    def end(position: int) -> int:
        return prompts.length if policy == "purekv" else min(prompts.length, (position // 16 + 1) * 16)

    assert prunes(attached, prompts.length)
    assert differs(model, prompts, attached, out, end) < TOLERANCE
