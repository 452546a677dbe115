"""Training prompts are the product's prompts, token for token; held-out wordings stay out of training."""

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from purekv_cli.demo import MODEL_DIR
from purekv_cli.demo.batches import (
    CONVERSATION,
    EMPTY,
    IGNORED,
    LONG,
    SHORT,
    BatchPlan,
    cells,
    make_batch,
    prompt_tokens,
)
from purekv_cli.demo.language import QUESTION_TYPES, Question, normalise
from purekv_cli.demo.network import build_model
from purekv_cli.demo.staging import SLOTS, STORY
from purekv_cli.demo.wording import OPENINGS_HELD_OUT, TEMPLATES, nouns, templates
from purekv_cli.demo.world import COLOURS, SHAPES
from purekv_cli.models.geometry import ModelGeometry
from purekv_cli.models.hub import read_json
from purekv_cli.models.qwen_vl import QwenVL
from purekv_cli.models.registry import preprocessor_config
from purekv_cli.video.frames import Frames

PLAN = BatchPlan(seed=11, clips=3, patches=8, height=224, width=168, shorts=5, longs=2)


@pytest.fixture(scope="module")
def adapter() -> QwenVL:
    """The product's adapter over the demo's folder, with untrained weights."""
    settings_file = preprocessor_config(MODEL_DIR)
    geometry = ModelGeometry.from_config(read_json(MODEL_DIR / "config.json"), settings_file)
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    return QwenVL.of("demo", MODEL_DIR, build_model(), tokenizer, geometry, settings_file)


def black(patches: int, height: int, width: int) -> Frames:
    times = np.arange(2.0 * patches)
    return Frames(np.zeros((2 * patches, height, width, 3), np.uint8), times, times, 1.0, 0.0)


def trained_prompt(turns: list[Question], visual_tokens: int) -> list[int]:
    prompt = prompt_tokens()
    ids, _ = prompt.segment(turns)
    return [*prompt.before_video, *[prompt.video_pad] * visual_tokens, *ids]


QUESTIONS = st.text(min_size=1, max_size=40).filter(lambda text: "<" not in text)


@settings(max_examples=40)
@given(question=QUESTIONS)
def test_a_question_is_asked_as_in_training(adapter: QwenVL, question: str) -> None:
    inputs = adapter.prepare(black(2, 196, 224), question)
    asked = inputs.input_ids[0].tolist()
    answer = [*prompt_tokens().encode("yes"), prompt_tokens().turn_end]
    assert asked + answer == trained_prompt([Question("any", question, "yes")], 2 * 7 * 8)
    assert asked[: inputs.layout.before] == list(prompt_tokens().before_video)
    assert inputs.layout.grid == (2, 7, 8)


def test_a_second_turn_is_asked_as_in_training(adapter: QwenVL) -> None:
    prompt = prompt_tokens()
    one, two = Question("any", "What happens first?", "The red circle blinks."), Question("any", "and then", "Nothing.")
    opened = adapter.prepare(black(1, 168, 168), one.text).input_ids[0].tolist()
    again = adapter.follow_up(two.text, 99)[0][0].tolist()
    talk = [*opened, *prompt.encode(one.answer), *again, *prompt.encode(two.answer), prompt.turn_end]
    assert talk == trained_prompt([one, two], 36)


def test_the_model_ends_its_turn_where_the_engine_stops(adapter: QwenVL) -> None:
    assert prompt_tokens().turn_end in adapter.stop_ids


def test_pixels_are_prepared_as_in_training(adapter: QwenVL) -> None:
    from purekv_cli.demo.network import to_patches

    levels = np.random.default_rng(0).integers(0, 256, (4, 168, 196, 3), dtype=np.uint8)
    frames = Frames(levels, np.arange(4.0), np.arange(4.0), 1.0, 0.0)
    features = adapter.prepare(frames, "?").features
    rgb = torch.from_numpy(levels)
    ours = to_patches((rgb[..., 0], rgb[..., 1], rgb[..., 2]), torch.float32).flatten(0, 2)
    assert torch.allclose(features["pixel_values_videos"], ours, atol=1e-5)
    assert features["video_grid_thw"].tolist() == [[2, 12, 14]]


def test_targets_are_the_answer_and_its_end() -> None:
    prompt = prompt_tokens()
    ids, targets = prompt.segment([Question("any", "Which way?", "left"), Question("any", "Sure?", "yes")])
    answer = [token for token in targets if token != IGNORED]
    assert answer == [*prompt.encode("left"), prompt.turn_end, *prompt.encode("yes"), prompt.turn_end]
    assert [following for following, target in zip(ids[1:], targets, strict=False) if target != IGNORED] == answer
    assert len(ids) == len(targets)


def test_a_batch_has_the_shapes_of_its_plan() -> None:
    batch = make_batch(PLAN)
    frames, length = PLAN.clips * 2 * PLAN.patches, 5 * SHORT + 2 * LONG
    assert batch.slots.shape == (frames, SLOTS, 8)
    assert batch.camera.shape == (frames, 5)
    assert batch.ground.shape == (PLAN.clips, 8)
    assert batch.labels.shape == (PLAN.clips * PLAN.patches, SLOTS, 2 + STORY)
    assert batch.ids.shape == batch.targets.shape == (PLAN.clips, length)
    assert cells(PLAN) == (8, 6)
    assert (batch.types != EMPTY).all()
    assert (batch.types <= CONVERSATION).all()


def test_a_batch_is_its_plan() -> None:
    one, same, other = make_batch(PLAN), make_batch(PLAN), make_batch(replace(PLAN, seed=12))
    for part in ("slots", "camera", "ground", "labels", "seconds_per_patch", "ids", "targets", "types"):
        assert np.array_equal(getattr(one, part), getattr(same, part))
    assert not np.array_equal(one.ids, other.ids)


def training_questions(batches: int) -> Iterator[tuple[str, str]]:
    """(type, normalised text) of the first question of every segment."""
    prompt = prompt_tokens()
    for seed in range(batches):
        plan = BatchPlan(seed, clips=24, patches=16, height=168, width=168, shorts=12, longs=1)
        batch = make_batch(plan)
        starts = np.cumsum([0, *plan.segments[:-1]])
        for row in range(plan.clips):
            for column, (start, room) in enumerate(zip(starts, plan.segments, strict=True)):
                if batch.types[row, column] == CONVERSATION:
                    continue
                ids = batch.ids[row, start + 1 : start + room].tolist()
                text = prompt.tokenizer.decode(ids[: ids.index(prompt.turn_end)])
                yield QUESTION_TYPES[batch.types[row, column]], normalise(text)


def wording_pattern(template: str) -> re.Pattern[str]:
    """Everything a template can say, up to case and punctuation."""
    blank = {
        "thing": rf"(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})",
        "shape": "|".join(SHAPES),
        "colour": "|".join(COLOURS),
        "end": "start|end",
        "group": r"\w+(?: objects)?",
        "noun": r"\w+",
    }
    parts = re.split(r"\{(\w+)\}", template)
    said = [
        re.escape(normalise(part)) if i % 2 == 0 else f"(?:{blank.get(part, '.+')})" for i, part in enumerate(parts)
    ]
    return re.compile(r"\s*".join(said))


def test_held_out_wordings_are_never_trained() -> None:
    held_out = {kind: [wording_pattern(text) for text in templates(kind, True)] for kind in TEMPLATES}
    known = {kind: [wording_pattern(text) for text in templates(kind, False)] for kind in TEMPLATES}
    understood = asked = 0
    for kind, text in training_questions(12):
        asked += 1
        if kind == "narration":
            assert not any(text.startswith(opening) for opening in OPENINGS_HELD_OUT), text
            continue
        assert not any(pattern.fullmatch(text) for pattern in held_out[kind]), (kind, text)
        understood += any(pattern.fullmatch(text) for pattern in known[kind])
    assert asked > 3000
    assert understood > 0.85 * asked  # the others carry typing errors; without this the patterns might fit nothing


def test_held_out_nouns_are_never_trained() -> None:
    asked = {word for kind, text in training_questions(6) if kind == "unknown" for word in text.split()}
    assert not asked & set(nouns(held_out=True))
    assert asked & set(nouns(held_out=False))
