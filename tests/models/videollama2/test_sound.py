"""The audio-visual model: tokens of sound after those of the video, prunable like them, and a dialogue before."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from purekv_cli.app import main
from purekv_cli.errors import UsageError
from purekv_cli.method.config import Propagation, SparseConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies import POLICIES
from purekv_cli.models import registry
from purekv_cli.models.videollama2 import golden_adapter
from purekv_cli.models.videollama2.fbank import fbank, features_of
from purekv_cli.runtime.attach import attach
from purekv_cli.runtime.embed import embed_prompt
from purekv_cli.runtime.engine import Engine
from purekv_cli.video.audio import RATE, Sound
from purekv_cli.video.frames import Frames
from tests.clips import Recipe, make
from tests.models.videollama2.conftest import clip_of
from tests.models.videollama2.released import SIZES, write_released
from tests.models.videollama2.test_method import STEPS, check, finish, method, pattern_of

TOKENS = SIZES.tokens(2998, 128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_released(tmp_path_factory.mktemp("av") / "model", "qwen2_siglip", audio=True)


@pytest.fixture(scope="module")
def adapter(folder: Path) -> Any:
    return registry.load(registry.resolve(str(folder)), "float32", "cpu")


def loud(count: int = 8, seconds: float = 3.0) -> Frames:
    samples = np.random.default_rng(2).normal(0, 0.1, int(seconds * RATE)).astype(np.float32)
    return replace(clip_of(count), sound=Sound(samples, RATE))


@torch.no_grad()
def test_tokens_of_sound_follow_the_videos(adapter: Any) -> None:
    frames, model = loud(), adapter.model
    inputs = adapter.prepare(frames, "what?")
    layout = inputs.layout
    assert len(layout.audio) == TOKENS
    assert layout.audio.tolist() == list(range(layout.video[-1] + 1, layout.after))
    assert adapter.prefix_length(inputs) == layout.after
    embeds = embed_prompt(model, inputs)[0]
    expected = model.get_audio_features(features_of(frames.sound.samples))
    assert torch.equal(embeds[layout.audio], expected)
    assert torch.equal(embeds[layout.video], model.get_video_features(inputs.features["pixel_values_videos"]))
    logits = model(input_ids=inputs.input_ids, **inputs.features).logits
    assert torch.equal(logits, model(inputs_embeds=embeds[None]).logits)


def test_the_golden_face_hears_too(folder: Path, adapter: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    golden = golden_adapter(config, load_file(folder / "model.safetensors"))
    samples = torch.from_numpy(loud().sound.samples)
    bank = golden.fbank(samples)
    assert torch.equal(bank, fbank(samples))
    with torch.no_grad():
        assert torch.equal(golden.audio_features(bank), adapter.model.audio_tower(bank[None])[0])
        assert torch.equal(golden.audio_output(bank), adapter.model.get_audio_features(bank))


def test_without_sound_it_is_a_video_model(adapter: Any) -> None:
    inputs = adapter.prepare(clip_of(8), "what?")
    assert len(inputs.layout.audio) == 0
    assert inputs.layout.length == adapter.prepare(loud(), "what?").layout.length - TOKENS


def test_a_model_without_ears_says_so(tmp_path: Path) -> None:
    deaf = registry.load(registry.resolve(str(write_released(tmp_path / "deaf", "qwen2_siglip"))), "float32", "cpu")
    with pytest.raises(UsageError, match="hears nothing"):
        deaf.prepare(loud(), "what?")


def test_masks_of_both_spans(adapter: Any) -> None:
    layout = adapter.prepare(loud(), "what?").layout
    masks = PromptMasks.of([layout])
    assert masks.video[0].nonzero()[:, 0].tolist() == layout.prunable.tolist()
    assert masks.after[0].nonzero()[:, 0].tolist() == list(range(layout.after, layout.length))
    frames, spots = masks.frame[0, layout.audio], masks.spot[0, layout.audio]  # type: ignore[index]
    assert frames.unique().tolist() == list(range(layout.grid[0]))
    assert (frames.diff() >= 0).all()
    assert spots.unique().tolist() == [layout.grid[1] * layout.grid[2]]


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_policies_prune_both(adapter: Any, policy: str) -> None:
    inputs = adapter.prepare(loud(), "what happens?")
    layout = inputs.layout
    session = Engine(adapter, method(inputs, policy)).open(inputs)
    answer = finish(session.first("what happens?", STEPS))
    if policy == "dense":
        return
    for places in session.kept:
        prompt = places[(places >= 0) & (places < layout.length)]
        sounds = torch.isin(prompt, layout.audio).sum() / places.shape[1]
        assert 0 < sounds < TOKENS
    if policy not in ("fastv", "fastkv"):
        check(adapter, session, answer)


@pytest.mark.parametrize("dial", ["propagate", "sparse"])
def test_sound_flows_and_is_read(adapter: Any, dial: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ST-SpAttn leaves sound out of its tiles; propagation carries both spans on."""
    monkeypatch.setattr("purekv_cli.method.pattern.ROWS", 4)
    inputs = adapter.prepare(loud(16), "what happens?")
    layout = inputs.layout
    sparse = SparseConfig(min_tokens=8, tile=(1, 1), recent=1, content=0.1)
    dials: dict[str, Any] = {"sparse": sparse} if dial == "sparse" else {"propagate": Propagation.parse("1:0.01")}
    session = Engine(adapter, method(inputs, **dials)).open(inputs)
    answer = finish(session.first("what happens?", STEPS))
    assert (answer.stats.sparse, answer.stats.propagated) == (dial == "sparse", dial == "propagate")
    places = session.kept[-1][0, 0]
    for span in (layout.video, layout.audio):
        assert torch.isin(places, span).any()
    rules: dict[str, Any] = (
        {"flowing_from": 1} if dial == "propagate" else {"pattern": pattern_of(adapter, inputs, sparse)}
    )
    check(adapter, session, answer, **rules)


def test_another_question_hears_the_same(adapter: Any) -> None:
    inputs, wanted = (adapter.prepare(loud(), question) for question in ("what happens?", "why?"))
    session, fresh = (Engine(adapter, method(wanted)).open(each) for each in (inputs, wanted))
    finish(session.ask("what?", STEPS))
    again = finish(session.ask("why?", STEPS))
    assert finish(fresh.first("why?", STEPS)).token_ids == again.token_ids


@torch.no_grad()
def test_generate_of_an_attached_model_prunes_both(adapter: Any) -> None:
    inputs = adapter.prepare(loud(), "what happens?")
    given = {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask, **inputs.features}
    plain = adapter.model.generate(**given, max_new_tokens=4, do_sample=False)
    with attach(adapter.model, method(inputs, "dense")):
        assert torch.equal(adapter.model.generate(**given, max_new_tokens=4, do_sample=False), plain)
    with attach(adapter.model, method(inputs)) as attached:
        adapter.model.generate(**given, max_new_tokens=4, do_sample=False)
        kept = attached.kept[0][0, 0]
    assert (kept < inputs.layout.length).sum() == inputs.layout.length - len(inputs.layout.prunable) // 2


def test_a_dialogue_comes_before_the_question(adapter: Any) -> None:
    later = adapter.after([("is there music?", "yes"), ("who plays?", "a man")])
    inputs, plain = (each.prepare(loud(), "and now?") for each in (later, adapter))
    assert torch.equal(inputs.layout.prunable, plain.layout.prunable)
    said = adapter.tokenizer.decode(inputs.input_ids[0, inputs.layout.after :])
    places = [said.index(text) for text in ("is there music?", "yes", "who plays?", "a man", "and now?")]
    assert places == sorted(places)
    assert said.count("<|im_start|>assistant") == 3


def test_ask_with_sound(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip = make(tmp_path, Recipe("sound.mp4", audio=True)).path
    line = ["ask", str(clip), "what?", "-m", str(folder), "--max-tokens", "3", "--device", "cpu", "--dtype", "float32"]
    told = {}
    for flags in ((), ("--audio",)):
        with pytest.raises(SystemExit) as ended:
            main([*line, *flags, "--budget", "0.9", "--json"])
        assert not ended.value.code
        out, err = capfd.readouterr()
        told[flags] = json.loads(out)["answers"][0]["stats"]
    assert "tokens and 1496 of sound |" in err
    heard, seen = told[("--audio",)], told[()]
    assert heard["prompt_tokens"] == seen["prompt_tokens"] + TOKENS
    assert heard["kept_tokens"] == pytest.approx(0.9 * heard["prompt_tokens"], abs=1)


def test_ask_says_what_it_cannot_hear(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], bundle: Path
) -> None:
    clip = make(tmp_path, Recipe()).path
    line = ["ask", str(clip), "what?", "--audio", "--max-tokens", "3", "--device", "cpu", "--dtype", "float32"]
    for model, code, words in ((folder, 0, "the clip has no sound"), (bundle, 2, "hears nothing")):
        with pytest.raises(SystemExit) as ended:
            main([*line, "-m", str(model), "--budget", "0.9"])
        assert (ended.value.code or 0) == code
        assert words in capfd.readouterr().err
