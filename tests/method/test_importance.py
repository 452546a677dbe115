"""Whose attention is read, and how it becomes a score."""

import torch

from purekv_cli.method.importance import VIDEO_ROWS, clie, normalised, observed_rows, pooled, running_max
from purekv_cli.method.layout import PromptMasks
from tests.method.prompts import prompt


def positions(rows):
    return [row.nonzero()[:, 0].tolist() for row in rows]


def test_the_question_speaks_by_default():
    masks = PromptMasks.of([prompt((2, 1, 3), before=2, after=3), prompt((1, 1, 3), before=1, after=2)])
    assert positions(observed_rows(masks, "question")) == [[8, 9, 10], [9, 10]]


def test_without_a_question_the_closing_marker_speaks_and_without_that_the_last_video_rows():
    masks = PromptMasks.of([prompt((20, 1, 2), before=2, after=1), prompt((20, 1, 2), before=3, after=0)])
    marker, bare = positions(observed_rows(masks, "question"))
    assert marker == [42]
    assert bare == list(range(43 - VIDEO_ROWS, 43))


def test_the_video_speaks_with_its_last_rows():
    masks = PromptMasks.of([prompt((20, 1, 2), before=2, after=9), prompt((2, 1, 2), before=2, after=9)])
    long, short = positions(observed_rows(masks, "video"))
    assert long == list(range(42 - VIDEO_ROWS, 42))
    assert short == [38, 39, 40, 41], "all there are, at the end of the left padding"


def test_text_between_frames_is_not_a_video_row():
    layout = prompt((40, 1, 1), before=0, after=2, between=1)
    rows = positions(observed_rows(PromptMasks.of([layout]), "video"))[0]
    assert rows == layout.video[-VIDEO_ROWS:].tolist()


def test_all_leaves_padding_out():
    masks = PromptMasks.of([prompt((2, 1, 2)), prompt((1, 1, 2))])
    assert torch.equal(observed_rows(masks, "all"), masks.valid)


def test_a_prompt_without_video_still_has_rows():
    masks = PromptMasks.of([prompt((0, 0, 0), before=3, after=2)])
    for observe in ("question", "video", "all"):
        assert observed_rows(masks, observe).any()


def test_clie_multiplies_mass_with_value_norms():
    mass = torch.tensor([[[1.0, 2.0], [0.5, 4.0]]])
    value = torch.tensor([[[[3.0, 4.0], [0.0, 1.0]], [[6.0, 8.0], [0.0, 0.0]]]])
    assert clie(mass, value).tolist() == [[[5.0, 2.0], [5.0, 0.0]]]


def test_pooling_takes_the_largest_head_and_layer():
    first = pooled(torch.tensor([[[1.0, 5.0], [3.0, 2.0]]]))
    assert first.tolist() == [[[3.0, 5.0]]]
    assert running_max(None, first) is first
    assert running_max(first, torch.tensor([[[4.0, 1.0]]])).tolist() == [[[4.0, 5.0]]]


def test_normalised_scores_are_shares_of_the_video():
    masks = PromptMasks.of([prompt((1, 1, 2), before=1, after=1)])
    score = torch.tensor([[[100.0, 3.0, 1.0, 50.0]]])
    assert normalised(score, masks).tolist() == [[[25.0, 0.75, 0.25, 12.5]]]
    silent = torch.tensor([[[100.0, 0.0, 0.0, 50.0]]])
    assert torch.equal(normalised(silent, masks), silent)
