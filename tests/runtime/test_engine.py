"""The own loop: events, sessions, chat turns, streaming, interruption, and statistics that are counted."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from purekv_cli.errors import OutOfResources, UsageError
from purekv_cli.kernels import allow
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig, Observe, Propagation, SparseConfig
from purekv_cli.models.base import Inputs
from purekv_cli.runtime.detokenize import Detokenizer
from purekv_cli.runtime.embed import look
from purekv_cli.runtime.engine import Engine
from purekv_cli.runtime.events import Answer, Event, Progress, Text
from purekv_cli.runtime.sampling import Generation
from tests.runtime.adapter import STOP, TinyAdapter
from tests.runtime.masked import gone_from, masked_logits
from tests.runtime.tiny import DEVICE, Clip

FEW = Generation(max_tokens=8)


@pytest.fixture(scope="module")
def adapter() -> TinyAdapter:
    return TinyAdapter()


@pytest.fixture
def stock_way() -> Iterator[None]:
    """Prompts and tokens go through transformers, where hooks can watch and disturb them."""
    allow("reference")
    yield
    allow("auto")


def engine(adapter: TinyAdapter, policy: str = "purekv", **dials: Any) -> Engine:
    return Engine(adapter, MethodConfig(policy=policy, budget=Budget("fraction", 0.5), **dials))


def last(events: Iterator[Event]) -> Answer:
    *_, answer = events
    assert isinstance(answer, Answer)
    return answer


def as_clip(inputs: Inputs) -> Clip:
    tensors = {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask, **inputs.features}
    tensors["mm_token_type_ids"] = (inputs.input_ids == 7).long() * 2
    return Clip({key: tensor.to(DEVICE) for key, tensor in tensors.items()}, [inputs.layout], 1.0)


def greedy_truth(
    adapter: TinyAdapter,
    inputs: Inputs,
    answer: Answer,
    kept: list[torch.Tensor],
    length: int,
    end: int | None = None,
) -> bool:
    """Whether every token is the likeliest where, from position `end` on, only what was kept of `length` is read."""
    ids = torch.cat([inputs.input_ids, torch.tensor([answer.token_ids])], 1).to(DEVICE)
    gone = gone_from(kept, length, lambda _: length if end is None else end)
    logits = masked_logits(adapter.model, as_clip(inputs), ids, gone)
    new = len(answer.token_ids)
    return logits[0, -new - 1 : -1].argmax(-1).tolist() == list(answer.token_ids)


@pytest.mark.parametrize("policy", ["dense", "random", "purekv", "purekv-paper"])
def test_the_answer_is_what_the_masked_model_would_say(adapter: TinyAdapter, policy: str) -> None:
    inputs = adapter.inputs("what happens?")
    session = engine(adapter, policy).open(inputs)
    answer = last(session.first("what happens?", FEW))
    assert len(answer.token_ids) == FEW.max_tokens
    assert greedy_truth(adapter, inputs, answer, session.kept, inputs.layout.length)


@pytest.mark.parametrize("policy", ["dense", "random", "purekv"])
def test_later_questions_too(adapter: TinyAdapter, policy: str) -> None:
    inputs = adapter.inputs("first?")
    session = engine(adapter, policy).open(inputs)
    for question in ("first?", "a second and longer one?", "3?"):
        answer = last(session.ask(question, FEW))
        asked = adapter.inputs(question)
        end = adapter.prefix_length(inputs) if policy != "purekv" else asked.layout.length
        assert greedy_truth(adapter, asked, answer, session.kept, end)


@pytest.mark.parametrize("policy", ["random", "purekv"])
def test_vision_runs_once_and_prefill_is_shared_where_it_can(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, looks = TinyAdapter(), []
    monkeypatch.setattr("purekv_cli.runtime.embed.look", lambda *given: looks.append(given) or look(*given))
    inputs = adapter.inputs("first?")
    maker = engine(adapter, policy)
    session = maker.open(inputs)
    reads = [last(session.ask(question, FEW)).stats for question in ("first?", "next?")]
    assert len(looks) == 1
    assert maker.shares_prefill is (policy == "random")
    assert reads[1].vision_seconds == 0
    assert reads[0].prompt_tokens == inputs.layout.length
    if maker.shares_prefill:
        kept = {tuple(places[0, 0, :20].tolist()) for places in session.kept}
        last(session.ask("first?", FEW))
        assert kept == {tuple(places[0, 0, :20].tolist()) for places in session.kept}


def test_a_question_may_be_read_whole_by_any_policy(adapter: TinyAdapter) -> None:
    inputs = adapter.inputs("what happens?")
    session = engine(adapter, "random").open(inputs)
    whole, shared = (last(session.ask("what happens?", FEW, shared=way)) for way in (False, True))
    assert whole.token_ids == last(engine(adapter, "random").answer(inputs, "what happens?", FEW)).token_ids
    assert shared.token_ids == last(engine(adapter, "random").open(inputs).ask("what happens?", FEW)).token_ids


SHARING = [("random", "question"), ("purekv", "video"), ("purekv", "template"), ("snapkv", "template")]
QUESTIONS = ("what happens?", "a second and longer one?", "3?")


@pytest.mark.parametrize(("policy", "observe"), SHARING)
def test_a_shared_prefill_keeps_the_same_whatever_is_asked_first(
    adapter: TinyAdapter, policy: str, observe: Observe
) -> None:
    """And a later question is answered as in a session of its own. Its words come on top of the budget."""
    inputs = adapter.inputs("what happens?")
    prefix, asks_nothing = adapter.prefix_length(inputs), adapter.inputs("").layout.length
    maker = engine(adapter, policy, observe=observe)
    assert maker.shares_prefill
    together, sets = maker.open(inputs), []
    for question in QUESTIONS:
        alone = maker.open(adapter.inputs(question))
        ours, fresh = last(together.ask(question, FEW)), last(alone.ask(question, FEW))
        assert ours.token_ids == fresh.token_ids
        for session in (together, alone):
            sets.append([places[(places >= 0) & (places < prefix)].tolist() for places in session.kept])
        length = alone.inputs.layout.length
        for stats in (ours.stats, fresh.stats):
            assert (stats.prompt_tokens, stats.kept_tokens) == (length, int(0.5 * asks_nothing) + length - asks_nothing)
        assert fresh.stats.kv_bytes_kept == fresh.stats.kept_tokens * 2 * 4 * 2 * 16 * 4
    assert all(kept == sets[0] for kept in sets)


@pytest.mark.parametrize("dials", [{}, {"chunk": 7}, {"one_set": True}, {"propagate": Propagation(2, 0.6)}], ids=str)
@pytest.mark.parametrize("policy", ["purekv", "purekv-paper", "adakv"])
def test_the_template_chooses_as_for_a_prompt_that_asks_nothing(
    adapter: TinyAdapter, policy: str, dials: dict[str, Any]
) -> None:
    """For one question and for many, in chunks or whole; then the answer is what the masked model would say."""
    nothing = engine(adapter, policy, **dials | {"chunk": None}).open(adapter.inputs(""))
    last(nothing.first("", Generation(max_tokens=1)))
    inputs = adapter.inputs("what happens?")
    prefix = adapter.prefix_length(inputs)
    truth = [places[..., : -adapter.tail("").shape[1]].tolist() for places in nothing.kept]
    for way in ("first", "ask"):
        session = engine(adapter, policy, observe="template", **dials).open(inputs)
        answer = last(getattr(session, way)("what happens?", FEW))
        new = inputs.layout.length - prefix + len(answer.token_ids) - 1
        assert [places[..., :-new].tolist() for places in session.kept] == truth
        if "propagate" not in dials:
            assert greedy_truth(adapter, inputs, answer, session.kept, inputs.layout.length, prefix)


@pytest.mark.usefixtures("stock_way")
def test_the_template_chooses_the_same_through_transformers(adapter: TinyAdapter) -> None:
    test_the_template_chooses_as_for_a_prompt_that_asks_nothing(adapter, "purekv", {})


def test_what_a_probe_left_serves_that_probe_alone(adapter: TinyAdapter) -> None:
    session = engine(adapter).open(adapter.inputs("what happens?"))

    def asked(probe: str, within: Any = session) -> tuple[tuple[int, ...], bool]:
        answer = last(within.ask("what happens?", FEW, probe=probe))
        return answer.token_ids, bool(answer.stats.prefill_path)

    first, read = asked("why?")
    assert read
    assert asked("why?") == (first, False)
    for probe in ("", "who is there, and where?", "why?"):
        assert asked(probe) == asked(probe, engine(adapter).open(session.inputs))


@pytest.mark.parametrize("limit", [3, 8])
@pytest.mark.parametrize("policy", ["dense", "random"])
@pytest.mark.usefixtures("stock_way")
def test_a_second_turn_equals_a_fresh_prompt(adapter: TinyAdapter, policy: str, limit: int) -> None:
    """The chat's cache gives the logits of the whole conversation read at once, under the mask of what was pruned."""
    inputs = adapter.inputs("what happens?")
    session = engine(adapter, policy).open(inputs)
    first = last(session.ask("what happens?", Generation(max_tokens=limit)))
    said: list[torch.Tensor] = []
    hook = adapter.model.get_output_embeddings().register_forward_hook(lambda _m, _i, out: said.append(out[:, -1]))
    second = last(session.follow_up("and then?", FEW))
    hook.remove()
    between, _ = adapter.follow_up("and then?", 0)
    ids = torch.cat([inputs.input_ids, torch.tensor([first.token_ids]), between], 1)
    end = adapter.prefix_length(inputs)
    gone = gone_from(session.kept, inputs.layout.length, lambda _: end)
    sequence = torch.cat([ids, torch.tensor([second.token_ids])], 1).to(DEVICE)
    truth = masked_logits(adapter.model, as_clip(inputs), sequence, gone)[:, ids.shape[1] - 1 : -1]
    assert (torch.stack(said, 1) - truth).abs().max() < 1e-5
    assert second.stats.prompt_tokens == ids.shape[1]
    third = last(session.follow_up("why?", FEW))
    assert third.stats.prompt_tokens == sequence.shape[1] + adapter.follow_up("why?", 0)[0].shape[1]
    again = last(session.ask("what happens?", Generation(max_tokens=limit)))
    assert again.token_ids == first.token_ids


def test_events_come_in_order_and_join_to_the_answer(adapter: TinyAdapter) -> None:
    inputs = adapter.inputs("what happens?")
    events = list(engine(adapter, chunk=16).answer(inputs, "what happens?", FEW))
    stages = [event.stage for event in events if isinstance(event, Progress)]
    assert list(dict.fromkeys(stages)) == ["vision", "prefill", "answer"]
    prefill = [
        (event.done, event.total) for event in events if isinstance(event, Progress) and event.stage == "prefill"
    ]
    steps = 4 * -(-inputs.layout.length // 16)
    assert prefill == [(step, steps) for step in range(1, steps + 1)]
    answer = events[-1]
    assert isinstance(answer, Answer)
    assert "".join(event.piece for event in events if isinstance(event, Text)) == answer.text
    assert answer.text == adapter.tokenizer.decode(
        list(answer.token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    assert answer.question == "what happens?"
    assert answer.finish == "length"


def test_a_stop_token_ends_the_answer_and_is_not_part_of_it(adapter: TinyAdapter) -> None:
    inputs = adapter.inputs("what happens?")
    free = last(engine(adapter).answer(inputs, "", Generation(max_tokens=8)))
    stopping = TinyAdapter(adapter.model)
    stopping.stop_ids = frozenset({free.token_ids[3]})  # type: ignore[assignment]
    at = free.token_ids.index(free.token_ids[3])
    answer = last(engine(stopping).answer(inputs, "", Generation(max_tokens=8)))
    assert answer.finish == "stop"
    assert answer.token_ids == free.token_ids[:at]
    assert STOP not in answer.token_ids


def test_sampling_follows_its_seed(adapter: TinyAdapter) -> None:
    inputs = adapter.inputs("what happens?")

    def tokens(seed: int, top_p: float = 0.9) -> tuple[int, ...]:
        wild = Generation(max_tokens=12, temperature=1.5, top_p=top_p, seed=seed)
        return last(engine(adapter).answer(inputs, "", wild)).token_ids

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)
    assert tokens(1, top_p=1e-6) == last(engine(adapter).answer(inputs, "", Generation(max_tokens=12))).token_ids


def test_statistics_are_those_of_the_tensors(adapter: TinyAdapter) -> None:
    inputs = adapter.inputs("what happens?")
    one = 2 * 4 * 2 * 16 * 4  # K and V, layers, KV heads, head size, float32
    stats = last(engine(adapter).answer(inputs, "", FEW, decode_seconds=0.25, prepare_seconds=0.5)).stats
    length = inputs.layout.length
    kept = int(0.5 * length)
    assert (stats.prompt_tokens, stats.video_tokens, stats.kept_tokens) == (length, 36, kept)
    assert stats.kv_bytes_full == one * length
    assert stats.kv_bytes_kept == one * kept
    assert stats.kv_bytes_kept < stats.kv_bytes_peak < one * kept + one * length / 4 * 1.01
    assert stats.decode_seconds == 0.25
    assert stats.vision_seconds > 0.5
    assert 0 < stats.scoring_seconds < stats.prefill_seconds
    assert stats.first_token_seconds > stats.vision_seconds + stats.prefill_seconds
    assert stats.tokens_per_second > 0
    assert stats.new_tokens == 8
    assert not stats.sparse


def test_dense_keeps_all(adapter: TinyAdapter) -> None:
    inputs = adapter.inputs("what happens?")
    stats = last(engine(adapter, "dense").answer(inputs, "", FEW)).stats
    assert stats.kept_tokens == stats.prompt_tokens == inputs.layout.length
    assert stats.kv_bytes_kept == stats.kv_bytes_full == stats.kv_bytes_peak


def test_sparse_prefill_is_reported(adapter: TinyAdapter) -> None:
    sparse = SparseConfig(min_tokens=1, tile=(2, 2), recent=1)
    inputs = adapter.inputs("what happens?")
    assert last(engine(adapter, sparse=sparse).answer(inputs, "", FEW)).stats.sparse
    assert not last(engine(adapter, sparse=replace(sparse, min_tokens=1000)).answer(inputs, "", FEW)).stats.sparse
    assert not last(engine(adapter, sparse=replace(sparse, enabled=False)).answer(inputs, "", FEW)).stats.sparse


def test_what_was_asked_for_but_not_done_is_not_reported(adapter: TinyAdapter) -> None:
    inputs, flows = adapter.inputs("what happens?"), Propagation(2, 0.6)
    sparse = SparseConfig(min_tokens=1)
    assert last(engine(adapter, propagate=flows).answer(inputs, "", FEW)).stats.propagated
    assert not last(engine(adapter, "dense", propagate=flows).answer(inputs, "", FEW)).stats.propagated
    assert not last(engine(adapter, propagate=Propagation(2, 1.0)).answer(inputs, "", FEW)).stats.propagated
    assert last(engine(adapter, sparse=sparse).answer(inputs, "", FEW)).stats.sparse
    assert not last(engine(adapter, "h2o", sparse=sparse).answer(inputs, "", FEW)).stats.sparse  # every layer's LSE


def test_one_token_has_no_rate(adapter: TinyAdapter) -> None:
    stats = last(engine(adapter).answer(adapter.inputs("?"), "", Generation(max_tokens=1))).stats
    assert stats.new_tokens == 1
    assert stats.tokens_per_second == 0


@pytest.mark.parametrize(
    ("policy", "observe"),
    [("dense", "question"), *SHARING, ("purekv", "question"), ("purekv-paper", "question"), ("dense", "template")],
)
def test_both_ways_say_the_same(adapter: TinyAdapter, policy: str, observe: Observe) -> None:
    """Straight from the weights or through transformers: answers, what was kept, and every later turn."""
    said = []
    for kernels in ("auto", "reference"):
        allow(kernels)  # type: ignore[arg-type]
        session = engine(adapter, policy, observe=observe).open(adapter.inputs("what happens?"))
        turns = [last(session.ask("what happens?", Generation(max_tokens=limit))) for limit in (1, 3, 8)]
        turns += [last(session.follow_up("and then?", FEW)), last(session.follow_up("why?", Generation(max_tokens=2)))]
        turns += [last(session.ask("who?", FEW))]
        said.append([(t.token_ids, t.finish, t.stats.prompt_tokens, t.stats.kept_tokens) for t in turns])
        paths = {(t.stats.prefill_path.partition(":")[0], t.stats.decode_path.partition(":")[0]) for t in turns}
        assert all(("transformers" in way) == (kernels == "reference") or not way for pair in paths for way in pair)
    allow("auto")
    assert said[0] == said[1]


def test_interrupted_while_the_graph_runs(adapter: TinyAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving the fast way amid an answer keeps what was said, and the chat goes on from there."""
    inputs = adapter.inputs("what happens?")
    session = engine(adapter).open(inputs)
    full = last(session.first("", FEW))
    events = session.first("", FEW)
    said = 0
    while said < 3:
        event = next(events)
        said += isinstance(event, Progress) and event.stage == "answer"
    push = Detokenizer.push
    monkeypatch.setattr(Detokenizer, "push", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    seen: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        _collect(events, seen)
    monkeypatch.setattr(Detokenizer, "push", push)
    answer = seen[-1]
    assert isinstance(answer, Answer)
    assert answer.finish == "interrupted"
    assert answer.token_ids == full.token_ids[: len(answer.token_ids)]
    ids, _ = adapter.follow_up("go on?", 0)
    stats = last(session.follow_up("go on?", FEW)).stats
    assert stats.prompt_tokens == inputs.layout.length + len(answer.token_ids) + ids.shape[1]


@pytest.mark.usefixtures("stock_way")
def test_interrupted_in_the_answer(adapter: TinyAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said so far is handed over, then the interruption goes on; the session can be used again."""
    inputs = adapter.inputs("what happens?")
    session = engine(adapter).open(inputs)
    full = last(session.first("", FEW))
    calls = 0
    middle = adapter.model.get_decoder().layers[2]

    def interrupt(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:  # the prefill, two tokens, and then amid a third
            raise KeyboardInterrupt

    hook = middle.register_forward_pre_hook(interrupt)
    events = session.first("", FEW)
    seen: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        _collect(events, seen)
    hook.remove()
    answer = seen[-1]
    assert isinstance(answer, Answer)
    assert answer.finish == "interrupted"
    assert answer.token_ids == full.token_ids[:3]
    assert len({layer.get_seq_length() for layer in session.cache.layers}) == 1  # type: ignore[union-attr]
    ids, _ = adapter.follow_up("go on?", 0)
    stats = last(session.follow_up("go on?", FEW)).stats
    assert stats.prompt_tokens == inputs.layout.length + 3 + ids.shape[1]


def _collect(events: Iterator[Event], into: list[Event]) -> None:
    for event in events:
        into.append(event)


@pytest.fixture
def ctrl_c_raises() -> Iterator[None]:
    """Also in a background job, which a shell starts with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("stock_way", "ctrl_c_raises")
def test_interrupted_in_prefill(adapter: TinyAdapter) -> None:
    """A real Ctrl-C while the layers run: the answer is empty, and the session starts over."""
    session = engine(adapter).open(adapter.inputs("what happens?"))

    def interrupt(*_: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    hook = adapter.model.get_decoder().layers[1].register_forward_pre_hook(interrupt)
    seen: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        _collect(session.first("", FEW), seen)
    hook.remove()
    assert isinstance(seen[-1], Answer)
    assert (seen[-1].finish, seen[-1].text, seen[-1].stats.new_tokens) == ("interrupted", "", 0)
    assert session.cache is None
    assert len(last(session.first("", FEW)).token_ids) == 8


def test_leaving_early_stops_the_prefill_and_restores_the_model(adapter: TinyAdapter) -> None:
    events = engine(adapter).answer(adapter.inputs("what happens?"), "", FEW)
    while not (isinstance(event := next(events), Progress) and event.stage == "prefill"):
        pass
    events.close()  # type: ignore[attr-defined]
    assert adapter.model.get_decoder().config._attn_implementation == "sdpa"
    assert len(last(engine(adapter).answer(adapter.inputs("what happens?"), "", FEW)).token_ids) == 8


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_out_of_memory_says_what_to_do(
    adapter: TinyAdapter, error: Exception, kernels: Literal["auto", "reference"], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    allow(kernels)
    monkeypatch.setattr("purekv_cli.runtime.fast_prefill.attention", fail)
    hook = adapter.model.get_decoder().layers[1].register_forward_pre_hook(fail)
    with pytest.raises(OutOfResources, match="memory ran out") as caught:
        last(engine(adapter).answer(adapter.inputs("what happens?"), "", FEW))
    hook.remove()
    allow("auto")
    assert "--max-frames" in caught.value.hint
    assert adapter.model.get_decoder().config._attn_implementation == "sdpa"


def test_a_budget_below_the_text_is_refused(adapter: TinyAdapter) -> None:
    with pytest.raises(UsageError, match="text that must stay"):
        last(Engine(adapter, MethodConfig(budget=Budget("tokens", 5))).answer(adapter.inputs("what happens?"), "", FEW))


def test_a_follow_up_needs_an_answer(adapter: TinyAdapter) -> None:
    with pytest.raises(UsageError, match="no answer"):
        engine(adapter).open(adapter.inputs("?")).follow_up("and?")


def test_generation_is_validated() -> None:
    for wrong in ({"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}):
        with pytest.raises(UsageError):
            Generation(**wrong)  # type: ignore[arg-type]
