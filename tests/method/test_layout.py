"""Masks of a left-padded batch say what the layouts say."""

import torch

from purekv_cli.method.layout import PromptMasks
from tests.method.prompts import prompt


def test_masks_are_the_layouts_pushed_to_the_right():
    long, short = prompt((2, 1, 2), before=1, after=2), prompt((1, 1, 2), before=2, after=1, between=1)
    masks = PromptMasks.of([long, short])

    def drawn(row):
        return "".join(
            "." if not masks.valid[row, n] else "v" if masks.video[row, n] else "q" if masks.after[row, n] else "t"
            for n in range(masks.valid.shape[1])
        )

    assert drawn(0) == "tvvvvqq"
    assert drawn(1) == "..ttvvq"
    assert torch.equal(masks.protected, masks.valid & ~masks.video)


def test_the_text_before_the_video_but_for_its_first_token_may_be_left_out():
    long, short = prompt((2, 1, 2), before=3, after=2, between=1), prompt((1, 1, 2), before=1, after=2)
    bare = prompt((0, 0, 0), before=0, after=4)
    masks = PromptMasks.of([long, short, bare])

    def drawn(masks):
        signs = [
            ["." if not there else "v" if video else "t" for there, video in zip(*row, strict=True)]
            for row in zip(masks.valid.tolist(), masks.video.tolist(), strict=True)
        ]
        return ["".join(row) for row in signs]

    assert drawn(masks) == ["tttvvtvvtt", ".....tvvtt", "......tttt"]
    every = torch.ones(3, dtype=torch.bool)
    assert drawn(masks.without_preamble(every)) == ["t..vvtvvtt", ".....tvvtt", "......tttt"]
    assert drawn(masks.without_preamble(~every)) == drawn(masks)
    part = masks.map(lambda each: each[:, 1:6])
    assert drawn(part.without_preamble(every)) == ["..vvt", "....t", "....."], "found in the whole, not in a part"


def test_text_between_frames_is_protected():
    masks = PromptMasks.of([prompt((2, 1, 2), before=1, after=1, between=1)])
    assert masks.protected[0].tolist() == [True, False, False, True, False, False, True]
    assert masks.after[0].tolist() == [False] * 6 + [True]
