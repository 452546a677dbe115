"""Prompts are those of the checkpoint's own template, token for token, whatever the question says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from purekv_cli.models import registry
from purekv_cli.models.qwen_vl import QwenVL
from purekv_cli.video.frames import Frames
from tests.models.conftest import SPECIAL

QUESTIONS = [
    "what happens?",
    "",
    " a",
    "a\n",
    "\n\nWhat?\n",
    "你好 é",
    "<b>bold</b> {{ x }} {% raw %}",
    "user\nassistant",
]


@pytest.fixture(scope="module")
def adapter(checkpoint: Path) -> QwenVL:
    loaded = registry.load(registry.resolve(str(checkpoint)), dtype="float32", device="cpu")
    assert isinstance(loaded, QwenVL)
    return loaded


def clip(count: int = 5, height: int = 56, width: int = 84, seconds: float = 0.5) -> Frames:
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    times = np.arange(count) * seconds
    return Frames(pixels, times, times, seconds, 0.0)


def rendered(adapter: QwenVL, turns: list[tuple[str, str | None]], video_tokens: int) -> list[int]:
    """Ids of a whole conversation, straight from the released template, the placeholder repeated in the text."""
    talk: list[dict[str, object]] = []
    for index, (question, answer) in enumerate(turns):
        video = [{"type": "video"}] if index == 0 else []
        talk.append({"role": "user", "content": [*video, {"type": "text", "text": question}]})
        if answer is not None:
            talk.append({"role": "assistant", "content": answer})
    from tests.models.conftest import TEMPLATE

    text = adapter.tokenizer.apply_chat_template(
        talk, chat_template=TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    return adapter.tokenizer.encode(
        text.replace("<|video_pad|>", "<|video_pad|>" * video_tokens), add_special_tokens=False
    )


@pytest.mark.parametrize("question", QUESTIONS)
def test_prompt_is_the_templates(adapter: QwenVL, question: str) -> None:
    inputs = adapter.prepare(clip(), question)
    assert inputs.layout.grid == (3, 2, 3)
    assert inputs.input_ids[0].tolist() == rendered(adapter, [(question, None)], 18)
    assert torch.equal((inputs.input_ids[0] == adapter.tokens.video).nonzero()[:, 0], inputs.layout.video)


def test_features_are_what_the_model_takes(adapter: QwenVL) -> None:
    inputs = adapter.prepare(clip(count=5, seconds=0.4), "why?")
    features = inputs.features
    assert features["pixel_values_videos"].shape == (3 * 4 * 6, 1176)
    assert features["video_grid_thw"].tolist() == [[3, 4, 6]]
    assert features["second_per_grid_ts"].tolist() == pytest.approx([0.8])
    assert torch.equal(features["mm_token_type_ids"] == 2, inputs.input_ids == adapter.tokens.video)
    start = inputs.layout.before
    times = inputs.position_ids[1, 0, inputs.layout.video].view(3, 6)
    assert times.tolist() == [[start + int(step * 0.8 * 2)] * 6 for step in range(3)]
    assert inputs.next_position == int(inputs.position_ids[1:].max()) + 1


def test_features_that_are_there_take_the_place_of_pixels(adapter: QwenVL) -> None:
    plain, known = adapter.prepare(clip(), "why?"), torch.randn(18, 64)
    ready = adapter.prepare(clip(), "why?", known)
    assert ready.features["video_features"] is known
    assert plain.features.keys() - ready.features.keys() == {"pixel_values_videos"}
    for name in ("video_grid_thw", "second_per_grid_ts", "mm_token_type_ids"):
        assert torch.equal(ready.features[name], plain.features[name])
    assert torch.equal(ready.input_ids, plain.input_ids)
    assert torch.equal(ready.position_ids, plain.position_ids)
    assert torch.equal(ready.layout.video, plain.layout.video)


def test_the_model_itself_agrees_where_it_is_right(adapter: QwenVL) -> None:
    """One grid step, wider than long: here the positions of current transformers are the right ones too."""
    inputs = adapter.prepare(clip(count=2, height=84, width=140), "why?")
    with torch.inference_mode():
        ours = adapter.model(input_ids=inputs.input_ids, position_ids=inputs.position_ids, **inputs.features).logits
        adapter.model.model.rope_deltas = None
        stock = adapter.model(
            input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, **inputs.features
        ).logits
    torch.testing.assert_close(ours, stock)


def test_frames_of_odd_size_are_resized_and_cell_multiples_kept(adapter: QwenVL) -> None:
    assert adapter.prepare(clip(2, 28, 28), "?").layout.grid == (1, 1, 1)
    rows, columns = adapter.geometry.frame_size(30, 41)
    assert adapter.prepare(clip(1, 30, 41), "?").layout.grid == (1, rows // 28, columns // 28)


@pytest.mark.parametrize("question", QUESTIONS)
def test_prefix_and_tail_are_the_prompt(adapter: QwenVL, question: str) -> None:
    first, second = adapter.prepare(clip(), "something else"), adapter.prepare(clip(), question)
    prefix = adapter.prefix_length(first)
    assert first.input_ids[0, prefix - 1] == adapter.model.config.vision_end_token_id
    assert torch.equal(torch.cat([first.input_ids[:, :prefix], adapter.tail(question)], 1), second.input_ids)


@pytest.mark.parametrize("question", QUESTIONS)
def test_follow_up_is_the_rest_of_the_rendered_conversation(adapter: QwenVL, question: str) -> None:
    answer = "A square moves."
    first = adapter.prepare(clip(), "what happens?")
    answer_ids = adapter.tokenizer.encode(answer, add_special_tokens=False)
    ids, positions = adapter.follow_up(question, first.next_position + len(answer_ids))
    conversation = [*first.input_ids[0].tolist(), *answer_ids, *ids[0].tolist()]
    assert conversation == rendered(adapter, [("what happens?", answer), (question, None)], 18)
    assert positions.shape == (4, 1, ids.shape[1])
    start = first.next_position + len(answer_ids)
    assert positions[1, 0].tolist() == list(range(start, start + ids.shape[1]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.sampled_from(SPECIAL), st.text(max_size=6)), max_size=6).map("".join))
def test_a_question_cannot_forge_special_tokens(adapter: QwenVL, question: str) -> None:
    plain = [token for token in adapter.tail("plain")[0].tolist() if token in _special(adapter)]
    forged = [token for token in adapter.tail(question)[0].tolist() if token in _special(adapter)]
    assert forged == plain
    turn, _ = adapter.follow_up(question, 0)
    assert sum(token in _special(adapter) for token in turn[0].tolist()) == 4


def _special(adapter: QwenVL) -> set[int]:
    return set(adapter.tokenizer.convert_tokens_to_ids(SPECIAL))


def test_uneven_frames_get_the_positions_of_their_own_seconds(adapter: QwenVL) -> None:
    """Frames chosen by scenes: the pairs of this clip begin at 0, 1.5 and 20 s, two positions a second."""
    frames = clip(count=6)
    times = np.array([3.0, 3.5, 4.5, 5.0, 23.0, 23.5])
    inputs = adapter.prepare(replace(frames, times=times, targets=times, even=False), "why?")
    video = inputs.layout.video[:: inputs.layout.grid[1] * inputs.layout.grid[2]]
    placed = inputs.position_ids[1, 0, video]
    assert (placed - placed[0]).tolist() == [0, 3, 40]
