"""Positions equal transformers 4.57.1's (and 4.49's, where seconds are fractional: 4.57.1 already truncates those).

The goldens were made once by tests/data/make_goldens.py: hashes for one clip of every length from 1 to 768 frames,
whole tensors for mixed prompts. A property test holds the vectorised code to plain loops over segments.
"""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purekv_cli.models.positions import VisionTokens, mrope_positions
from tests.models.golden_cases import (
    FPS,
    IMAGE,
    MERGE,
    TOKENS_PER_SECOND,
    VIDEO,
    PositionCase,
    Segment,
    digest,
    mixes,
    sweep,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "positions.json").read_text())
TOKENS = VisionTokens(IMAGE, VIDEO, MERGE, TOKENS_PER_SECOND)


def positions(case: PositionCase) -> tuple[torch.Tensor, torch.Tensor]:
    tensors = case.tensors()
    ids = tensors["input_ids"]
    assert ids is not None
    return mrope_positions(
        ids,
        TOKENS,
        attention_mask=tensors["attention_mask"],
        image_grids=tensors["image_grid_thw"],
        video_grids=tensors["video_grid_thw"],
        seconds_per_grid=tensors["second_per_grid_ts"],
    )


def test_one_to_768_frames() -> None:
    wrong = []
    for case, expected in zip(sweep(), GOLDEN["sweep"], strict=True):
        found, after = positions(case)
        if f"{digest(found[1:])} {int(after[0])}" != expected:
            wrong.append(case.name)
    assert not wrong
    assert len(GOLDEN["sweep"]) == 768
    assert any(2 / fps % 1 for fps in FPS)


@pytest.mark.parametrize(
    ("group", "case"),
    [(group, case) for group in ("whole", "fractional") for case in mixes(group == "fractional")],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_mixed_prompts(group: str, case: PositionCase) -> None:
    found, after = positions(case)
    expected = GOLDEN[f"mixes, {group}"][case.name]
    assert found[1:].tolist() == expected["positions"]
    assert after.tolist() == expected["next"]


def test_the_text_row_counts_tokens_and_skips_padding() -> None:
    found, _ = positions(PositionCase("", ((("text", 5),), (("text", 1), ("video", 1, 1, 1, 1.0)))))
    assert found[0].tolist() == [[0, 1, 2, 3, 4], [1, 0, 1, 2, 3]]


def test_text_after_a_video_continues_past_its_last_position() -> None:
    """64 frames of 4 x 5 tokens at 2 s a step: the case that later releases of transformers get wrong."""
    found, after = positions(PositionCase("", ((("text", 3), ("video", 32, 4, 5, 1.0), ("text", 10)),)))
    last_video = 4 + 31 * 2
    assert found[1:, 0, -10:].tolist() == [list(range(last_video + 2, last_video + 12))] * 3
    assert after.tolist() == [last_video + 12]


def test_fast_clips_keep_their_seconds() -> None:
    """At 4 frames a second a grid step is half a second: one position, not zero."""
    found, _ = positions(PositionCase("", ((("video", 4, 1, 1, 0.5),),)))
    assert found[1, 0, 1:5].tolist() == [1, 2, 3, 4]


def test_grids_must_match_the_placeholders() -> None:
    with pytest.raises(ValueError, match="grids hold 6"):
        mrope_positions(torch.tensor([[1, VIDEO, 2]]), TOKENS, video_grids=torch.tensor([[1, 4, 6]]))


def slow_row(row: tuple[Segment, ...]) -> list[list[int]]:
    """[[text, t, h, w], ...] of one unpadded row, segment by segment."""
    out: list[list[int]] = []

    def text(count: int) -> None:
        start = max((max(place[1:]) for place in out), default=-1) + 1
        for index in range(count):
            out.append([len(out)] + [start + index] * 3)

    for kind, *numbers in row:
        if kind == "text":
            text(int(numbers[0]))
            continue
        steps, height, width = (int(number) for number in numbers[:3])
        seconds = torch.tensor(numbers[3] if kind == "video" else 0.0, dtype=torch.float32)
        text(1)  # vision start
        start = max(max(place[1:]) for place in out) + 1
        for t in range(steps):
            for h in range(height):
                for w in range(width):
                    time = int((t * seconds) * TOKENS_PER_SECOND)
                    out.append([len(out), start + time, start + h, start + w])
        text(1)  # vision end
    return out


_text = st.tuples(st.just("text"), st.integers(1, 5))
_size = st.integers(1, 4)
_image = st.tuples(st.just("image"), st.just(1), _size, _size)
_seconds = st.floats(0.015625, 9, allow_nan=False, width=32)
_video = st.tuples(st.just("video"), _size, _size, _size, _seconds)
_rows = st.lists(st.lists(st.one_of(_text, _image, _video), min_size=1, max_size=5).map(tuple), min_size=1, max_size=3)


@settings(max_examples=150)
@given(_rows)
def test_equals_plain_loops(rows: list[tuple[Segment, ...]]) -> None:
    found, after = positions(PositionCase("", tuple(rows)))
    for index, row in enumerate(rows):
        expected = slow_row(row)
        assert found[:, index, -len(expected) :].T.tolist() == expected
        assert int(after[index]) == max(max(place[1:]) for place in expected) + 1


def test_uneven_steps_are_placed_by_their_own_times() -> None:
    """Even times given one by one are the rule itself; uneven ones land where their second is."""
    case = PositionCase("", ((("text", 3), ("video", 5, 1, 2, 1.5), ("text", 2)),))
    tensors = case.tensors()
    ids, grids = tensors["input_ids"], tensors["video_grid_thw"]
    assert ids is not None
    even, _ = positions(case)
    by_time, _ = mrope_positions(ids, TOKENS, video_grids=grids, step_seconds=torch.arange(5) * 1.5)
    assert by_time.tolist() == even.tolist()
    uneven, after = mrope_positions(ids, TOKENS, video_grids=grids, step_seconds=torch.tensor([0, 0.4, 7.5, 9.0, 30]))
    assert uneven[1, 0, 4:14:2].tolist() == [4, 4, 4 + 15, 4 + 18, 4 + 60]  # two positions a second
    assert after.tolist() == [4 + 60 + 1 + 1 + 2]  # the block's end and two words
