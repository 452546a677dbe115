"""Qwen2.5-Omni hears: prompt, features and positions against the library's own processor and model."""

import json
from dataclasses import replace
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, BatchFeature, Qwen2_5OmniProcessor, WhisperFeatureExtractor

from purekv_cli.app import main
from purekv_cli.errors import UsageError
from purekv_cli.models import registry
from purekv_cli.models.base import Inputs
from purekv_cli.models.hub import weight_files
from purekv_cli.models.placement import parameter_bytes
from purekv_cli.models.qwen2_5_omni import QwenOmni
from purekv_cli.models.sound import by_turns
from purekv_cli.pipeline import make_plan
from purekv_cli.runtime.embed import embed_clip
from purekv_cli.settings import Settings, SoundSettings
from purekv_cli.video.audio import RATE, Sound
from purekv_cli.video.frames import Frames
from purekv_cli.video.probe import probe
from tests.clips import Recipe, make
from tests.models.families import SAMPLES
from tests.models.families.qwen2_5_omni import SAMPLE

QUESTION = "what happens?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SAMPLE.write(tmp_path_factory.mktemp("omni") / "model")


@pytest.fixture(scope="module")
def adapter(folder: Path) -> QwenOmni:
    loaded = registry.load(registry.resolve(str(folder)), "float32", "cpu")
    assert isinstance(loaded, QwenOmni)
    return loaded


def loud(adapter: QwenOmni, count: int, fps: float, seconds: float, columns: int = 3) -> Frames:
    """So many frames, and so many seconds of noise."""
    draw, cell = np.random.default_rng(0), adapter.geometry.cell
    pixels = draw.integers(0, 256, (count, 2 * cell, columns * cell, 3), dtype=np.uint8)
    samples = draw.normal(0, 0.1, round(seconds * RATE)).astype(np.float32)
    times = np.arange(count) / fps
    return Frames(pixels, times, times, 1 / fps, 0.0, sound=Sound(samples, RATE))


class Eyes(SimpleNamespace):
    """In place of the library's video processor, which needs torchvision: patches and grid are ours."""

    merge_size = temporal_patch_size = 2
    model_input_names = ("pixel_values_videos", "video_grid_thw")

    def __call__(self, *_: Any, **__: Any) -> BatchFeature:
        return BatchFeature({name: self.features[name] for name in self.model_input_names})


def processed(adapter: QwenOmni, folder: Path, frames: Frames, inputs: Inputs, monkeypatch: Any) -> dict[str, Tensor]:
    """What the library's processor makes of the clip and its sound."""
    assert frames.sound is not None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for kind in ("image", "audio", "video"):
        setattr(tokenizer, f"{kind}_token", f"<|{kind.upper()}|>")
        setattr(tokenizer, f"{kind}_token_id", tokenizer.convert_tokens_to_ids(f"<|{kind.upper()}|>"))
    for name in ("vision_bos", "vision_eos", "audio_bos", "audio_eos"):
        setattr(tokenizer, f"{name}_token", f"<|{name}|>")
    monkeypatch.setattr(Qwen2_5OmniProcessor, "check_argument_for_proper_class", lambda *_: None)
    processor: Any = Qwen2_5OmniProcessor(
        image_processor=SimpleNamespace(merge_size=2, model_input_names=[]),
        video_processor=Eyes(features=inputs.features),
        feature_extractor=WhisperFeatureExtractor.from_pretrained(folder),
        tokenizer=tokenizer,
    )
    talk = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}]
    text = tokenizer.apply_chat_template(
        talk, chat_template=SAMPLE.template, tokenize=False, add_generation_prompt=True
    )
    # Since 5.23 the processor asks which video a sound is of.
    newer = "audio_from_video_indices" in signature(Qwen2_5OmniProcessor.__mro__[1].__call__).parameters
    how: dict[str, Any] = {"audio_from_video_indices": [0]} if newer else {}
    how["load_audio_from_video" if newer else "use_audio_in_video"] = True
    found = processor(
        text=[text],
        videos=[frames.pixels],
        audio=[frames.sound.samples],
        fps=1 / frames.seconds_per_frame,
        return_tensors="pt",
        **how,
    )
    return dict(found)


@pytest.mark.filterwarnings("ignore:__array__")  # the processor's
@pytest.mark.parametrize(
    ("count", "fps", "seconds"),
    [
        (6, 2.0, 3.0),
        (5, 2.0, 2.5),  # the last frame is alone
        (24, 2.0, 11.97),  # several turns
        (40, 5.0, 3.0),  # the sound ends turns earlier
        (4, 2.0, 9.3),  # the picture does
        (10, 3.0, 3.37),  # steps that are no whole number of positions
        (12, 0.2, 20.0),  # steps longer than a turn
    ],
)
def test_the_prompt_with_sound_is_the_librarys(
    adapter: QwenOmni, folder: Path, count: int, fps: float, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = loud(adapter, count, fps, seconds)
    inputs = adapter.prepare(frames, QUESTION)
    theirs = processed(adapter, folder, frames, inputs, monkeypatch)
    assert torch.equal(inputs.input_ids, theirs["input_ids"])
    mask = theirs["feature_attention_mask"].bool()
    ours = inputs.features["feature_attention_mask"].bool()
    heard, wanted = (
        each.mT[at] for each, at in ((inputs.features["input_features"], ours), (theirs["input_features"], mask))
    )
    torch.testing.assert_close(heard, wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(inputs.features["video_second_per_grid"], theirs["video_second_per_grid"])
    model: Any = adapter.model
    positions, _ = model.get_rope_index(
        theirs["input_ids"],
        video_grid_thw=theirs["video_grid_thw"],
        attention_mask=theirs["attention_mask"],
        use_audio_in_video=True,
        audio_seqlens=theirs["feature_attention_mask"].sum(-1),
        second_per_grids=theirs["video_second_per_grid"],
    )
    assert torch.equal(inputs.position_ids[1:], positions)
    for tokens, name in ((inputs.layout.video, "<|VIDEO|>"), (inputs.layout.audio, "<|AUDIO|>")):
        token = adapter.tokenizer.convert_tokens_to_ids(name)
        assert torch.equal(tokens, (theirs["input_ids"][0] == token).nonzero()[:, 0])


def test_text_follows_the_later_of_picture_and_sound(adapter: QwenOmni) -> None:
    """Where the sound ends first, in the same turn: the library then counts on from the sound."""
    inputs = adapter.prepare(loud(adapter, 20, 2.0, 8.4), QUESTION)
    at, layout = inputs.position_ids[1:, 0], inputs.layout
    assert int(layout.audio[-1]) == layout.after - 1
    assert int(at[:, layout.audio].max()) < int(at[:, layout.video].max())
    assert at[:, layout.after :].amin() == at[:, : layout.after].amax() + 1


@pytest.mark.parametrize("samples", [0, 1, 320])
def test_without_sound_the_picture_is_alone(adapter: QwenOmni, samples: int) -> None:
    frames = loud(adapter, 6, 2.0, samples / RATE)
    inputs, plain = (adapter.prepare(each, QUESTION) for each in (frames, replace(frames, sound=None)))
    assert torch.equal(inputs.input_ids, plain.input_ids)
    assert torch.equal(inputs.position_ids, plain.position_ids)
    assert inputs.features.keys() == plain.features.keys()


def test_a_sound_longer_than_the_bound_is_cut(adapter: QwenOmni) -> None:
    assert len(adapter.prepare(loud(adapter, 4, 2.0, 31.0), QUESTION).layout.audio) == 30 * 25


def test_a_sound_of_another_rate_is_an_error(adapter: QwenOmni) -> None:
    frames = replace(loud(adapter, 4, 2.0, 2.0), sound=Sound(np.zeros(8000, np.float32), 8000))
    with pytest.raises(UsageError, match="8000 samples a second"):
        adapter.prepare(frames, QUESTION)


def test_a_family_that_hears_nothing_says_so(adapter: QwenOmni, tmp_path: Path) -> None:
    deaf = registry.load(registry.resolve(str(SAMPLES["qwen2_vl"].write(tmp_path / "deaf"))), "float32", "cpu")
    with pytest.raises(UsageError, match="hears nothing"):
        deaf.prepare(loud(adapter, 4, 2.0, 2.0), QUESTION)


def test_turns_hold_all_tokens_in_order() -> None:
    assert by_turns(torch.tensor([0, 0, 25, 25, 50, 50]), 60, 50) == [(False, 4), (True, 50), (False, 2), (True, 10)]
    assert by_turns(torch.tensor([0, 0]), 120, 50) == [(False, 2), (True, 50), (True, 50), (True, 20)]
    assert by_turns(torch.tensor([0, 50, 100]), 3, 50) == [(False, 1), (True, 3), (False, 1), (False, 1)]


@pytest.mark.parametrize("architecture", ["Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"])
def test_a_release_of_either_name_is_known(folder: Path, tmp_path: Path, architecture: str) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text()) | {"architectures": [architecture]}
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert registry.load(registry.resolve(str(tmp_path)), "float32", "cpu").family == "qwen2_5_omni"


def test_memory_counts_only_what_is_loaded(adapter: QwenOmni, folder: Path) -> None:
    parameters = sum(weight.numel() for weight in adapter.model.parameters())
    assert parameter_bytes(weight_files(folder), torch.bfloat16) == 2 * parameters
    assert sum(path.stat().st_size for path in weight_files(folder)) > 8 * parameters


@torch.no_grad()
def test_the_encoder_hears_in_the_models_own_dtype(folder: Path, adapter: QwenOmni) -> None:
    half = registry.load(registry.resolve(str(folder)), "bfloat16", "cpu")
    frames = loud(adapter, 4, 2.0, 2.0)
    embedded = [embed_clip(each.model, each.prepare(frames, QUESTION)).features.float() for each in (half, adapter)]
    torch.testing.assert_close(*embedded, atol=0.05, rtol=0.05)


def test_a_plan_says_what_is_not_heard(adapter: QwenOmni, tmp_path: Path) -> None:
    info = probe(make(tmp_path, Recipe(audio=True)).path)
    settings = Settings(sound=SoundSettings(audio=True))
    geometry = adapter.geometry
    whole, cut, silent = (
        make_plan(facts, shape, ("x",), settings)
        for facts, shape in (
            (info, geometry),
            (info, replace(geometry, audio_seconds=0.5)),
            (replace(info, audio=False), geometry),
        )
    )
    assert whole.audio_tokens == round(25 * info.duration)
    assert (cut.audio_tokens, silent.audio_tokens) == (12, 0)
    assert whole.sample.note is silent.sample.note is None
    assert cut.sample.note == "of the sound, the model hears the first 0.5 s"


def test_ask_with_and_without_a_sound_track(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = {}
    for audio in (True, False):
        clip = make(tmp_path, Recipe(f"{audio}.mp4", audio=audio)).path
        line = ["ask", str(clip), "what?", "-m", str(folder), "--audio", "--frames", "4", "--max-tokens", "3", "--json"]
        with pytest.raises(SystemExit) as ended:
            main([*line, "--device", "cpu", "--dtype", "float32", "--budget", "0.9"])
        assert not ended.value.code
        out, err = capfd.readouterr()
        told[audio] = json.loads(out)["answers"][0]["stats"]["prompt_tokens"]
        assert ("of sound" in err) == audio
        assert ("the clip has no sound" in err) != audio
    assert told[True] > told[False] + 25


@pytest.mark.parametrize("way", ["engine", "replay"])
def test_eval_of_a_dialogue_about_a_clip_with_sound(
    folder: Path, tmp_path: Path, way: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, Recipe("AB1CD.mp4", audio=True))
    turns = [{"question": "Is it loud?", "answer": "Yes."}, {"question": "Does it end?", "answer": "No."}]
    dialogs = [{"image_id": "AB1CD", "caption": "Noise.", "dialog": turns[:count]} for count in (1, 2)]
    full = []
    for record, flags in ((dialogs[0], []), (dialogs[0], ["--audio"]), (dialogs[1], ["--audio"])):
        (tmp_path / "valid_AVSD.json").write_text(json.dumps({"dialogs": [record]}))
        out = tmp_path / f"{len(full)}.jsonl"
        line = ["eval", str(tmp_path), "-m", str(folder), "--way", way, "--policy", "purekv", "--budget", "0.9"]
        line += ["--when", "prompt", "--frames", "4", "--max-tokens", "3", "-o", str(out), "--quiet", *flags]
        with pytest.raises(SystemExit) as ended:
            main([*line, "--device", "cpu", "--dtype", "float32"])
        assert not ended.value.code, capfd.readouterr().err
        *_, last = (json.loads(each) for each in out.read_text().splitlines())
        assert last["question"] == record["dialog"][-1]["question"]
        assert last["error"] is None
        assert last["kv_bytes_kept"] < last["kv_bytes_full"]
        full.append(last["kv_bytes_full"])
    assert full == sorted(set(full))
