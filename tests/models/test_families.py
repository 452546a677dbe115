"""Pixels and texts of families against what the library's own video processors made of the same frames."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig, SparseConfig
from purekv_cli.models import registry
from purekv_cli.models.base import Adapter
from purekv_cli.models.chat import VideoChat
from purekv_cli.models.smolvlm import in_words
from purekv_cli.models.video_llama_3 import STILL, changed
from purekv_cli.runtime.engine import Engine
from purekv_cli.runtime.events import Answer
from purekv_cli.runtime.sampling import Generation
from purekv_cli.video.frames import Frames
from tests.models.families import SAMPLES
from tests.models.families.truth import forward
from tests.models.golden_cases import digest
from tests.models.golden_families import TIMES, pixels

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "families.json").read_text())


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def loaded(name: str) -> VideoChat:
        folder = SAMPLES[name].write(tmp_path_factory.mktemp("families") / name)
        if name == "llava_onevision":  # as the library's defaults are
            (folder / "video_preprocessor_config.json").write_text("{}")
        adapter = registry.load(registry.resolve(str(folder)), "float32", "cpu")
        assert isinstance(adapter, VideoChat)
        return adapter

    return loaded


def frames_of(family: str) -> Frames:
    return Frames(pixels(family), TIMES, TIMES, 0.52, 0.0)


def unbounded(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of the size that rounding to cells alone gives."""
    geometry = adapter.geometry
    if geometry.side is None:
        monkeypatch.setattr(adapter, "geometry", replace(geometry, min_pixels=1, max_pixels=10**9))


@pytest.mark.parametrize("family", [name for name in GOLDEN if "sha256" in GOLDEN[name]])
def test_pixels_are_the_librarys_bit_for_bit(load: Any, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter: VideoChat = load(family)
    unbounded(adapter, monkeypatch)
    features = adapter.see(frames_of(family), None).features
    made = features.get("pixel_values_videos")
    made = features["pixel_values"][None] if made is None else made
    assert digest(made) == GOLDEN[family]["sha256"]


@pytest.mark.parametrize("family", [name for name in GOLDEN if "text" in GOLDEN[name]])
def test_the_text_around_frames_is_the_librarys(load: Any, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter: VideoChat = load(family)
    unbounded(adapter, monkeypatch)
    frames = frames_of(family if family != "smolvlm" else "internvl")
    seen = adapter.see(frames, None)
    text, runs = adapter.write(frames, seen)
    first, *rest = text.split(adapter.video_token)
    written = first + "".join(adapter.video_token * count + more for count, more in zip(runs, rest, strict=True))
    assert written + adapter.after_video == GOLDEN[family]["text"]


def test_still_patches_are_left_out_as_the_library_does(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the engine's answer is the library's forward of what is left."""
    adapter: VideoChat = load("video_llama_3")
    unbounded(adapter, monkeypatch)
    inputs = adapter.prepare(frames_of("video_llama_3"), "what happens?")
    kept = GOLDEN["video_llama_3"]["kept"]
    assert "".join(str(int(each)) for each in inputs.features["video_compression_mask"]) == kept
    assert inputs.layout.grid == (1, 1, kept.count("1"))
    assert 0 < kept.count("1") < len(kept)
    config = MethodConfig(policy="dense", budget=Budget("fraction", 1.0), sparse=SparseConfig(enabled=False))
    *_, answer = Engine(adapter, config).answer(inputs, "what happens?", Generation(max_tokens=4))
    assert isinstance(answer, Answer)
    truth = forward(adapter, inputs, list(answer.token_ids))[inputs.layout.length - 1 : -1]
    assert truth.argmax(-1).tolist() == list(answer.token_ids)


def test_a_frame_in_which_nothing_moves_keeps_one_token() -> None:
    still = torch.zeros(3, 4, 6)
    assert changed(still).sum(1).tolist() == [4, 1, 1]
    still[1, 2] = 2 * STILL / 255
    assert changed(still)[1].tolist() == [False, False, True, False]


def test_a_sparse_pattern_reads_all_of_a_clip_without_a_grid(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter: Adapter = load("video_llama_3")
    unbounded(adapter, monkeypatch)
    inputs = adapter.prepare(frames_of("video_llama_3"), "what happens?")
    answers = []
    for sparse in (SparseConfig(min_tokens=8), SparseConfig(enabled=False)):
        config = MethodConfig(budget=Budget("fraction", 0.9), sparse=sparse)
        *_, answer = Engine(adapter, config).answer(inputs, "what happens?", Generation(max_tokens=4))
        answers.append(answer.token_ids)
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (8, "eight"),
        (12, "twelve"),
        (20, "twenty"),
        (64, "sixty-four"),
        (100, "one hundred"),
        (121, "one hundred and twenty-one"),
        (1000, "one thousand"),
        (1001, "one thousand and one"),
        (2345, "two thousand, three hundred and forty-five"),
        (12000, "twelve thousand"),
    ],
)
def test_numerals_are_those_of_num2words(number: int, words: str) -> None:
    assert in_words(number) == words


def test_numerals_are_all_different() -> None:
    assert len({in_words(number) for number in np.arange(5000).tolist()}) == 5000
