"""The contract of every family, on small random models in the layout of the released checkpoints.

A family that passes works with every policy and command: its prompt is the library's token for token, its positions
are right, and what the engine computes is what the library's own forward computes with a mask.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from purekv_cli.app import main
from purekv_cli.bench.masked import masks
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig, Propagation, SparseConfig
from purekv_cli.method.pattern import build, content_change
from purekv_cli.models import registry
from purekv_cli.models.base import Adapter, Inputs
from purekv_cli.runtime.attach import attach
from purekv_cli.runtime.embed import embed_clip
from purekv_cli.runtime.engine import Engine
from purekv_cli.runtime.events import Answer
from purekv_cli.runtime.sampling import Generation, Sampler
from purekv_cli.runtime.session import Session
from purekv_cli.video.audio import RATE, Sound
from purekv_cli.video.frames import Frames
from tests.clips import Recipe, make
from tests.models.families import SAMPLES
from tests.models.families.sample import Case, Sample, names_in
from tests.models.families.truth import continued, forward

TOLERANCE = 2e-5
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
QUESTIONS = ("what happens?", "", " a\n", "user\nassistant: <video> <|video_pad|>", "你好 é")
STEPS = Generation(max_tokens=5)
WAYS = ["hooks", "weights"]


@dataclass(frozen=True)
class Loaded:
    """A family's small model, from its folder."""

    sample: Sample
    folder: Path
    adapter: Adapter
    sound: bool = False  # clips come with it


@pytest.fixture(scope="module", params=[*SAMPLES, "qwen2_5_omni with sound"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    name, _, sound = request.param.partition(" with ")
    sample = SAMPLES[name]
    folder = sample.write(tmp_path_factory.mktemp("families") / name)
    adapter = registry.load(registry.resolve(str(folder)), "float32", DEVICE)
    return Loaded(sample, folder, adapter, bool(sound))


@pytest.fixture
def logits(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What every token was drawn from, as far as the host draws them."""
    seen: list[Tensor] = []
    draw = Sampler.next

    def spied(sampler: Sampler, given: Tensor) -> Tensor:
        seen.append(given[0].clone())
        return draw(sampler, given)

    monkeypatch.setattr(Sampler, "next", spied)
    return seen


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Through transformers with hooks, and straight from the weights where they are of the common build."""
    if request.param == "hooks":
        monkeypatch.setattr("purekv_cli.runtime.fast.allowed", lambda: "reference")
    return str(request.param)


def clip(family: Loaded, count: int = 6, columns: int = 3, seconds: float = 0.5) -> Frames:
    """Noise that moves, of 2 x `columns` tokens a frame where the family has a choice; with sound, noise as long."""
    geometry = family.adapter.geometry
    size = (geometry.side, geometry.side) if geometry.side else (2 * geometry.cell, columns * geometry.cell)
    pixels = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    times = np.arange(count) * seconds + 0.04
    samples = np.random.default_rng(1).normal(0, 0.1, round(count * seconds * RATE)).astype(np.float32)
    return Frames(pixels, times, times, seconds, 0.0, sound=Sound(samples, RATE) if family.sound else None)


def method(inputs: Inputs, policy: str = "purekv", **dials: Any) -> MethodConfig:
    """Text and half of the video and its sound stay."""
    settings: dict[str, Any] = {"score_layers": (0, 2), "sparse": SparseConfig(enabled=False)} | dials
    kept = inputs.layout.length - len(inputs.layout.prunable) // 2
    return MethodConfig(policy=policy, budget=Budget("tokens", kept), **settings)


def finish(events: Any) -> Answer:
    *_, answer = events
    assert isinstance(answer, Answer)
    return answer


def opened(adapter: Adapter, inputs: Inputs, config: MethodConfig) -> Session:
    return Engine(adapter, config).open(inputs)


def case(family: Loaded, inputs: Inputs, seconds: float) -> Case:
    layout = inputs.layout
    ids = inputs.input_ids.cpu()
    video, audio = layout.video.tolist(), layout.audio.tolist()
    return Case(family.adapter.model, ids, video, layout.grid, inputs.features, seconds, audio)


def text_of(family: Loaded, frames: Frames, grid: Any, *turns: str) -> str:
    """A conversation as the chat template and the library's processor write it; the last turn has no answer yet."""
    talk: list[Any] = []
    for index, question in enumerate(turns):
        content = [{"type": "video"}] * (index == 0) + [{"type": "text", "text": question}]
        talk += [{"role": "user", "content": content}]
        talk += [{"role": "assistant", "content": [{"type": "text", "text": "It moves."}]}] * (index + 1 < len(turns))
    text = family.adapter.tokenizer.apply_chat_template(
        talk, chat_template=family.sample.template, tokenize=False, add_generation_prompt=True
    )
    placeholder = family.sample.placeholder
    assert text.count(placeholder) == 1 + sum(question.count(placeholder) for question in turns)
    return str(text.replace(placeholder, family.sample.video_text(frames, grid), 1))


@pytest.mark.parametrize("question", ["what happens?", "", " a\n", "你好 é"])
def test_the_prompt_is_the_librarys(family: Loaded, question: str) -> None:
    frames = clip(family)
    inputs = family.adapter.prepare(frames, question)
    text = text_of(family, frames, inputs.layout.grid, question)
    assert inputs.input_ids[0].tolist() == family.adapter.tokenizer.encode(text)


def test_a_second_turn_is_the_rest_of_the_conversation(family: Loaded) -> None:
    adapter, frames = family.adapter, clip(family)
    inputs = adapter.prepare(frames, "what happens?")
    more, _ = adapter.follow_up("and then?", 0)
    text = text_of(family, frames, inputs.layout.grid, "what happens?", "and then?")
    whole = adapter.tokenizer.encode(text)
    first, rest = inputs.input_ids[0].tolist(), more[0].tolist()
    if family.sample.prompt_reopens:
        assert whole[: len(first)] == first
    assert whole[-len(rest) :] == rest
    between = whole[len(first) : -len(rest)]
    assert adapter.tokenizer.decode(between, skip_special_tokens=True).strip() == "It moves."


def test_a_dialogue_is_a_conversation_of_its_turns(family: Loaded) -> None:
    """Questions and answers before the question, each a turn as the template writes it; the clip's part stays."""
    frames, asked = clip(family), ("what happens?", " a\n", "and then?")
    later = family.adapter.after([(question, "It moves.") for question in asked[:-1]])
    inputs, first = later.prepare(frames, asked[-1]), family.adapter.prepare(frames, "why?")
    text = text_of(family, frames, inputs.layout.grid, *asked)
    assert inputs.input_ids[0].tolist() == family.adapter.tokenizer.encode(text)
    assert torch.equal(inputs.layout.prunable, first.layout.prunable)
    prefix = later.prefix_length(first)
    assert torch.equal(torch.cat([first.input_ids[:, :prefix], later.tail(asked[-1])], 1), inputs.input_ids)
    assert torch.equal(family.adapter.prepare(frames, "why?").input_ids, first.input_ids)  # which forgets nothing


@pytest.mark.parametrize("question", QUESTIONS)
def test_prefix_and_tail_are_the_prompt(family: Loaded, question: str) -> None:
    adapter, frames = family.adapter, clip(family)
    inputs, other = adapter.prepare(frames, question), adapter.prepare(frames, "something else")
    prefix = adapter.prefix_length(other)
    assert torch.equal(torch.cat([other.input_ids[:, :prefix], adapter.tail(question)], 1), inputs.input_ids)
    assert prefix > inputs.layout.video[-1]


def test_a_question_cannot_forge_special_tokens(family: Loaded) -> None:
    adapter = family.adapter
    special = set(adapter.tokenizer.convert_tokens_to_ids(list(family.sample.special)))
    asks: list[Any] = [adapter.tail, lambda question: adapter.follow_up(question, 0)[0]]
    asks += [lambda text: adapter.after([(text, text)]).tail("why?")]
    for ask in asks:
        plain = [token for token in ask("plain")[0].tolist() if token in special]
        forged = [token for token in ask(" ".join(family.sample.special))[0].tolist() if token in special]
        assert forged == plain


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_the_layout_covers_exactly_the_video_tokens(family: Loaded, count: int) -> None:
    adapter = family.adapter
    frames = clip(family, count)
    inputs = adapter.prepare(frames, "why?")
    layout, (steps, rows, columns) = inputs.layout, inputs.layout.grid
    assert layout.grid == adapter.geometry.grid(count, *frames.pixels.shape[1:3]) or not adapter.geometry.side
    assert steps == -(-count // adapter.geometry.temporal_patch)
    assert len(layout.video) == steps * rows * columns
    assert layout.length == inputs.input_ids.shape[1]
    embeds = embed_clip(family.adapter.model, inputs).features[0]
    words = adapter.model.get_input_embeddings()(inputs.input_ids)[0]
    changed = (embeds != words).any(-1).nonzero()[:, 0].cpu()
    filled = layout.video if inputs.filled is None else inputs.filled
    assert torch.equal(changed, torch.cat([filled, layout.audio]).sort().values)  # the towers' output is nowhere else
    assert bool(len(layout.audio)) == family.sound
    assert torch.equal(filled[: len(layout.video)], layout.video)


def test_frames_of_any_size_become_the_planned_grid(family: Loaded) -> None:
    adapter = family.adapter
    pixels = np.random.default_rng(1).integers(0, 256, (3, 45, 70, 3), dtype=np.uint8)
    times = np.arange(3.0)
    inputs = adapter.prepare(Frames(pixels, times, times, 1.0, 0.0), "?")
    assert inputs.layout.grid == adapter.geometry.grid(3, 45, 70)


@pytest.mark.parametrize("count", [2, 6])
def test_positions_are_those_of_the_rule(family: Loaded, count: int) -> None:
    frames = clip(family, count, seconds=0.75)
    inputs = family.adapter.prepare(frames, "what happens?")
    at = inputs.position_ids.cpu()
    rotary = at[1:, 0] if at.dim() == 3 else at
    assert torch.equal(rotary, family.sample.positions(case(family, inputs, 0.75)))
    assert inputs.next_position == int(rotary.max()) + 1
    if at.dim() == 3:
        assert torch.equal(at[0, 0], torch.arange(at.shape[-1]))


def test_positions_are_the_librarys_where_it_is_right(family: Loaded) -> None:
    """One grid step, wider than long, a second apart: there is no bug of transformers 5 that this would meet."""
    if family.sample.right_in_library is None:
        pytest.skip("this family counts tokens")
    inputs = family.adapter.prepare(clip(family, 2, columns=4, seconds=0.5), "what happens?")
    theirs = family.sample.right_in_library(case(family, inputs, 0.5))
    assert torch.equal(inputs.position_ids[1:, 0].cpu(), theirs)


def compare(family: Loaded, answer: Answer, logits: list[Tensor], session: Session, **rules: Any) -> None:
    """Every token is the likeliest of the library's forward under the mask, and drawn from the same logits."""
    inputs = rules.get("inputs", session.inputs)
    length = inputs.layout.length
    tokens = list(answer.token_ids)
    total = length + len(tokens)
    seen = masks(session.kept, rules.get("pruned_at", length), total, rules.get("flowing_from"), rules.get("pattern"))
    truth = forward(family.adapter, inputs, tokens, seen)[length - 1 :]
    assert torch.equal(truth[: len(tokens)].argmax(-1).cpu(), torch.tensor(tokens))
    if logits or DEVICE == "cpu":
        torch.testing.assert_close(torch.stack(logits)[: len(tokens)], truth[: len(tokens)], atol=TOLERANCE, rtol=0)


def prunes(session: Session) -> bool:
    """Whether each layer dropped something: a comparison of full caches would prove nothing."""
    length = session.inputs.layout.length
    return all(int(((places >= 0) & (places < length)).sum(-1).max()) < length for places in session.kept)


@pytest.mark.parametrize("policy", ["purekv", "purekv-paper", "random", "dense"])
def test_pruned_is_masked(family: Loaded, way: str, policy: str, logits: list[Tensor]) -> None:
    inputs = family.adapter.prepare(clip(family), "what happens?")
    session = opened(family.adapter, inputs, method(inputs, policy))
    answer = finish(session.first("what happens?", STEPS))
    assert prunes(session) == (policy != "dense")
    assert answer.stats.prefill_path.startswith("transformers: " if way == "hooks" else "from the weights")
    compare(family, answer, logits, session)


@pytest.mark.parametrize("policy", ["dense", "purekv"])
def test_a_second_turn_is_a_fresh_prompt(family: Loaded, way: str, policy: str, logits: list[Tensor]) -> None:
    """Of the whole conversation; where the first turn was pruned, with a mask."""
    adapter = family.adapter
    inputs = adapter.prepare(clip(family), "what happens?")
    session = opened(adapter, inputs, method(inputs, policy))
    first = finish(session.first("what happens?", STEPS))
    unfed = session.unfed
    more = adapter.follow_up("and then?", 0)[0][0].tolist()
    logits.clear()
    second = finish(session.follow_up("and then?", STEPS))
    read = list(first.token_ids)
    if unfed and read[-1:] != unfed:
        read += unfed
    whole = [*read, *more, *second.token_ids]
    length = inputs.layout.length
    seen = None if policy == "dense" else masks(session.kept, length, length + len(whole), None)
    truth = forward(adapter, inputs, whole, seen)[-len(second.token_ids) - 1 : -1]
    assert truth.argmax(-1).tolist() == list(second.token_ids)
    if logits or DEVICE == "cpu":
        torch.testing.assert_close(torch.stack(logits)[: len(truth)], truth, atol=TOLERANCE, rtol=0)


def test_another_question_is_a_fresh_prompt(family: Loaded, way: str) -> None:
    """The vision tower runs once, and what it made is placed as in a prompt of its own."""
    adapter, frames = family.adapter, clip(family)
    inputs, wanted = adapter.prepare(frames, "what happens?"), adapter.prepare(frames, "why?")
    session, fresh = (opened(adapter, each, method(wanted)) for each in (inputs, wanted))
    finish(session.ask("what?", STEPS))
    again = finish(session.ask("why?", STEPS))
    assert finish(fresh.first("why?", STEPS)).token_ids == again.token_ids
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(session.kept, fresh.kept, strict=True))


def test_a_shared_prefill_is_masked_from_the_question_on(family: Loaded, way: str, logits: list[Tensor]) -> None:
    """A policy that never looks at questions prunes the clip once, before the first."""
    adapter, frames = family.adapter, clip(family)
    inputs, wanted = adapter.prepare(frames, "what happens?"), adapter.prepare(frames, "why?")
    session = opened(adapter, inputs, method(inputs, "random"))
    finish(session.ask("what?", STEPS))
    logits.clear()
    answer = finish(session.ask("why?", STEPS))
    compare(family, answer, logits, session, inputs=wanted, pruned_at=adapter.prefix_length(inputs))


def test_sparse_attention_is_the_masked_dense_one(
    family: Loaded, way: str, logits: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("purekv_cli.method.pattern.ROWS", 4)
    adapter = family.adapter
    inputs = adapter.prepare(clip(family, 16), "what happens?")
    sparse = SparseConfig(min_tokens=8, tile=(1, 1), recent=1, content=0.1)
    session = opened(adapter, inputs, method(inputs, sparse=sparse))
    answer = finish(session.first("what happens?", STEPS))
    assert answer.stats.sparse
    video = embed_clip(family.adapter.model, inputs).features[0, inputs.layout.video]
    pattern = build(inputs.layout, sparse, content_change(video, inputs.layout.grid)).dense_mask()
    sound, causal = inputs.layout.audio, torch.ones_like(pattern).tril()
    assert torch.equal(pattern[sound], causal[sound])  # sound reads and is read as text
    assert torch.equal(pattern[:, sound], causal[:, sound])
    among = pattern[inputs.layout.video][:, inputs.layout.video]
    assert among.sum() < 0.8 * torch.ones_like(among).tril().sum()  # the pattern leaves something out
    compare(family, answer, logits, session, pattern=pattern.to(DEVICE))


def test_propagation_is_the_masked_model(family: Loaded, logits: list[Tensor]) -> None:
    """Above a layer the other tokens are gone for every query, in attention and in what the layers make of them."""
    adapter = family.adapter
    inputs = adapter.prepare(clip(family), "what happens?")
    propagation = Propagation.parse(family.sample.propagation)
    assert propagation is not None
    session = opened(adapter, inputs, method(inputs, propagate=propagation))
    answer = finish(session.first("what happens?", STEPS))
    assert answer.stats.propagated
    compare(family, answer, logits, session, flowing_from=propagation.layer)


def test_propagation_that_cannot_be_is_said(family: Loaded, logits: list[Tensor]) -> None:
    """Where the tower feeds the first layers too, tokens do not end there; elsewhere they may."""
    inputs = family.adapter.prepare(clip(family), "what happens?")
    session = opened(family.adapter, inputs, method(inputs, propagate=Propagation(1, 0.01)))
    answer = finish(session.first("what happens?", STEPS))
    deepstack = "deepstack_visual_indexes" in str(family.adapter.model.config)
    assert answer.stats.propagated is not deepstack
    assert answer.stats.prefill_path == (
        "transformers: its tower feeds the first 2 layers, so tokens end from layer 3 on"
        if deepstack
        else "from the weights"
    )
    compare(family, answer, logits, session, flowing_from=None if deepstack else 1)


def test_attach_leaves_no_trace(family: Loaded) -> None:
    model: Any = family.adapter.model
    inputs = family.adapter.prepare(clip(family), "what happens?")
    before = forward(family.adapter, inputs, [])
    state = {name: set(vars(module)) for name, module in model.named_modules()}
    with attach(model, method(inputs), layout=inputs.layout) as attached:
        given = {name: inputs.features[name] for name in inputs.features if name != "video_features"}
        out = model.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            position_ids=continued(inputs, 0),
            **given,
            max_new_tokens=2,
            do_sample=False,
        )
        assert attached.kept[0].shape[-1] < out.shape[1]
    assert {name: set(vars(module)) for name, module in model.named_modules()} == state
    assert torch.equal(forward(family.adapter, inputs, []), before)


def test_attach_finds_the_positions_itself(family: Loaded) -> None:
    """As a user of transformers calls it: no positions, no layout."""
    inputs = family.adapter.prepare(clip(family), "what happens?")
    answer = finish(opened(family.adapter, inputs, method(inputs, "dense")).first("what happens?", STEPS))
    model: Any = family.adapter.model
    ids = {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask}
    with attach(model, method(inputs, "dense")):
        out = model.generate(**ids, **inputs.features, max_new_tokens=STEPS.max_tokens, do_sample=False)
    said = out[0, inputs.layout.length :].tolist()
    assert said[: len(answer.token_ids)] == list(answer.token_ids)
    with attach(model, method(inputs)) as attached:
        out = model.generate(**ids, **inputs.features, max_new_tokens=2, do_sample=False)
        assert attached.kept[0].shape[-1] < out.shape[1] - 1  # the video was found, too


def test_the_folder_is_laid_out_as_released(family: Loaded) -> None:
    """Names of weights and fields, and every weight that was written is the one that was read."""
    assert set(family.sample.keys) <= names_in(family.folder)
    config = json.loads((family.folder / "config.json").read_text())
    assert config["architectures"] == [family.sample.architecture]
    torch.manual_seed(0)
    written = family.sample.build(family.folder).state_dict()
    for name, weight in family.adapter.model.state_dict().items():
        assert torch.equal(weight.cpu(), written[name]), name


def test_ask_answers(family: Loaded, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    video = make(tmp_path, Recipe(audio=family.sound)).path
    line = ["ask", str(video), "what?", "-m", str(family.folder), "--frames", "4", "--max-tokens", "3", "--json"]
    line += ["--audio"] * family.sound
    with pytest.raises(SystemExit) as ended:
        main([*line, "--device", DEVICE, "--dtype", "float32", "--budget", "0.97"])
    assert not ended.value.code
    told = json.loads(capfd.readouterr().out)
    assert told["answers"][0]["question"] == "what?"


def test_every_family_has_a_sample() -> None:
    elsewhere = {"videollama2"}
    assert {family.name for family in registry.FAMILIES.values()} - elsewhere == set(SAMPLES)
