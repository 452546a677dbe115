"""PureKV on VideoLLaMA2: 1-D positions, features where the tag was, and pruned = the masked model."""

from typing import Any

import pytest
import torch
from torch import Tensor

from purekv_cli.bench.masked import masked_logits, masks
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig, Propagation, SparseConfig
from purekv_cli.method.pattern import build, content_change
from purekv_cli.method.policies import POLICIES
from purekv_cli.models.base import Inputs
from purekv_cli.runtime.attach import attach
from purekv_cli.runtime.embed import embed_prompt
from purekv_cli.runtime.engine import Engine
from purekv_cli.runtime.events import Answer
from purekv_cli.runtime.sampling import Generation
from purekv_cli.runtime.session import Session
from tests.models.videollama2.conftest import clip_of

STEPS = Generation(max_tokens=5)


@pytest.fixture(params=["hooks", "weights"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "hooks":
        monkeypatch.setattr("purekv_cli.runtime.fast.allowed", lambda: "reference")
    return str(request.param)


def method(inputs: Inputs, policy: str = "purekv", **dials: Any) -> MethodConfig:
    """Text and half of the rest stay."""
    settings: dict[str, Any] = {"score_layers": (0,), "sparse": SparseConfig(enabled=False)} | dials
    kept = inputs.layout.length - len(inputs.layout.prunable) // 2
    return MethodConfig(policy=policy, budget=Budget("tokens", kept), **settings)


def finish(events: Any) -> Answer:
    *_, answer = events
    assert isinstance(answer, Answer)
    return answer


def truth(adapter: Any, inputs: Inputs, seen: list[Tensor] | None, more: list[int]) -> list[int]:
    """What the model says to prompt and `more`, token by token, under the masks."""
    words = adapter.model.get_input_embeddings()(torch.tensor([more], dtype=torch.int64))
    embeds = torch.cat([embed_prompt(adapter.model, inputs), words], 1)
    total = embeds.shape[1]
    if seen is None:
        causal = torch.ones(1, total, total, dtype=torch.bool).tril()
        seen = [causal.expand(2, -1, -1)] * adapter.geometry.layers
    logits = masked_logits(adapter.model, embeds, torch.arange(total)[None], seen, len(more) + 1)
    return logits.argmax(-1).tolist()


@torch.no_grad()
def check(adapter: Any, session: Session, answer: Answer, **rules: Any) -> None:
    length, tokens = session.inputs.layout.length, list(answer.token_ids)
    seen = masks(session.kept, length, length + len(tokens), rules.get("flowing_from"), rules.get("pattern"))
    assert truth(adapter, session.inputs, seen, tokens)[: len(tokens)] == tokens


@torch.no_grad()
def pattern_of(adapter: Any, inputs: Inputs, sparse: SparseConfig) -> Tensor:
    """Which keys every prompt row reads, bool [N, N]; something is left out."""
    video = embed_prompt(adapter.model, inputs)[0, inputs.layout.video]
    pattern = build(inputs.layout, sparse, content_change(video, inputs.layout.grid)).dense_mask()
    assert not torch.equal(pattern, torch.ones_like(pattern).tril())
    return pattern


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_layout_positions_and_features(adapter: Any, count: int) -> None:
    inputs = adapter.prepare(clip_of(count), "why?")
    layout, model = inputs.layout, adapter.model
    assert layout.grid == adapter.geometry.grid(count, 48, 68)
    assert inputs.position_ids.tolist() == [list(range(layout.length))]
    assert inputs.next_position == layout.length
    with torch.no_grad():
        embeds = embed_prompt(model, inputs)
        features = model.get_video_features(inputs.features["pixel_values_videos"])
        logits = model(input_ids=inputs.input_ids, pixel_values_videos=inputs.features["pixel_values_videos"]).logits
        spliced = model(inputs_embeds=embeds).logits
    assert torch.equal(embeds[0, layout.video], features)
    assert torch.equal(logits, spliced)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_pruned_is_masked(adapter: Any, way: str, policy: str) -> None:
    inputs = adapter.prepare(clip_of(8), "what happens?")
    session = Engine(adapter, method(inputs, policy)).open(inputs)
    answer = finish(session.first("what happens?", STEPS))
    assert answer.stats.prefill_path.startswith("transformers: " if way == "hooks" else "from the weights")
    if policy not in ("fastv", "fastkv"):  # tokens end inside the model: its own tests hold these to the truth
        check(adapter, session, answer)


def test_propagation_is_the_masked_model(adapter: Any) -> None:
    inputs = adapter.prepare(clip_of(8), "what happens?")
    session = Engine(adapter, method(inputs, propagate=Propagation.parse("1:0.01"))).open(inputs)
    answer = finish(session.first("what happens?", STEPS))
    assert answer.stats.propagated
    check(adapter, session, answer, flowing_from=1)


def test_sparse_prefill_is_the_masked_dense_one(adapter: Any, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purekv_cli.method.pattern.ROWS", 4)
    inputs = adapter.prepare(clip_of(16), "what happens?")
    sparse = SparseConfig(min_tokens=8, tile=(1, 1), recent=1, content=0.1)
    session = Engine(adapter, method(inputs, sparse=sparse)).open(inputs)
    answer = finish(session.first("what happens?", STEPS))
    assert answer.stats.sparse
    check(adapter, session, answer, pattern=pattern_of(adapter, inputs, sparse))


@torch.no_grad()
def test_a_second_turn_is_a_fresh_prompt(adapter: Any, way: str) -> None:
    inputs = adapter.prepare(clip_of(4), "what happens?")
    session = Engine(adapter, method(inputs, "dense")).open(inputs)
    first = finish(session.first("what happens?", STEPS))
    more = adapter.follow_up("and then?", 0)[0][0].tolist()
    second = finish(session.follow_up("and then?", STEPS))
    whole = [*first.token_ids, *more, *second.token_ids]
    said = truth(adapter, inputs, None, whole)[-len(second.token_ids) - 1 : -1]
    assert said == list(second.token_ids)


def test_another_question_is_a_fresh_prompt(adapter: Any, way: str) -> None:
    inputs, wanted = (adapter.prepare(clip_of(4), question) for question in ("what happens?", "why?"))
    session, fresh = (Engine(adapter, method(wanted)).open(each) for each in (inputs, wanted))
    finish(session.ask("what?", STEPS))
    again = finish(session.ask("why?", STEPS))
    assert finish(fresh.first("why?", STEPS)).token_ids == again.token_ids


@torch.no_grad()
def test_generate_of_an_attached_model(adapter: Any) -> None:
    """For users of transformers: the layout is found by the index that stands for video."""
    inputs = adapter.prepare(clip_of(8), "what happens?")
    given = {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask, **inputs.features}
    plain = adapter.model.generate(**given, max_new_tokens=4, do_sample=False)
    with attach(adapter.model, method(inputs, "dense")):
        dense = adapter.model.generate(**given, max_new_tokens=4, do_sample=False)
    with attach(adapter.model, method(inputs)) as attached:
        adapter.model.generate(**given, max_new_tokens=4, do_sample=False)
        kept = attached.kept[0][0, 0]
    assert torch.equal(plain, dense)
    prompt = kept[kept < inputs.layout.length]
    assert len(prompt) == inputs.layout.length - len(inputs.layout.video) // 2
    assert torch.equal(adapter.model.generate(**given, max_new_tokens=4, do_sample=False), plain)
