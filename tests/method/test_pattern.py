"""The pattern against its rules written out one query and one key at a time."""

import time
from dataclasses import fields
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purekv_cli.method import pattern
from purekv_cli.method.config import SparseConfig
from purekv_cli.method.pattern import build, content_change, frames_read
from tests.method.pattern_rules import told
from tests.method.prompts import prompt


def random_content(layout, seed=0):
    return torch.rand(len(layout.video), generator=torch.Generator().manual_seed(seed))


def built(tile_rows, *args, **kwargs):
    """Query tiles are small here, as the prompts are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pattern, "ROWS", tile_rows)
        return build(*args, **kwargs)


@st.composite
def prompts(draw):
    grid = (draw(st.integers(1, 7)), draw(st.integers(1, 4)), draw(st.integers(1, 5)))
    text = [draw(st.integers(0, 3)) for _ in range(2)]
    return prompt(grid, *text, between=draw(st.sampled_from([0, 0, 2])), inside=draw(st.sampled_from([0, 0, 1])))


@st.composite
def configs(draw):
    return SparseConfig(
        tile=(draw(st.integers(1, 5)), draw(st.integers(1, 5))),
        recent=draw(st.sampled_from([None, None, 0, 1, 3])),
        content=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        first_frame=draw(st.booleans()),
    )


@st.composite
def some_rows(draw, length):
    return draw(st.none() | st.sets(st.integers(0, length - 1), max_size=length).map(sorted))


@settings(max_examples=80)
@given(data=st.data(), layout=prompts(), config=configs(), content=st.booleans(), tile_rows=st.integers(1, 9))
def test_the_mask_is_what_the_rules_say(data, layout, config, content, tile_rows):
    changed = random_content(layout) if content else None
    rows = data.draw(some_rows(layout.length))
    wanted = None if rows is None else torch.tensor(rows, dtype=torch.int64)
    runs = built(tile_rows, layout, config, changed, rows=wanted)
    assert torch.equal(runs.dense_mask(), told(layout, config, changed, rows, tile_rows))


@settings(max_examples=80)
@given(data=st.data(), layout=prompts(), config=configs(), tile_rows=st.integers(1, 9))
def test_lists_are_well_formed(data, layout, config, tile_rows):
    rows = data.draw(some_rows(layout.length))
    wanted = None if rows is None else torch.tensor(rows, dtype=torch.int64)
    runs = built(tile_rows, layout, config, random_content(layout), rows=wanted)
    assert sorted(runs.key_order.tolist()) == list(range(layout.length))
    assert runs.rows.tolist() == (list(range(layout.length)) if rows is None else rows)
    assert torch.equal(runs.rows[runs.query_row], runs.query_order)
    assert runs.row_start[0] == runs.run_ptr[0] == 0
    assert runs.row_start[-1] == len(runs.query_order)
    assert runs.run_ptr[-1] == len(runs.run_start)
    assert ((runs.row_start.diff() > 0) & (runs.row_start.diff() <= tile_rows)).all()
    for tile in range(runs.tiles):
        queries = runs.query_order[runs.row_start[tile] : runs.row_start[tile + 1]]
        assert (queries.diff() > 0).all()
        end = 0
        for run in range(int(runs.run_ptr[tile]), int(runs.run_ptr[tile + 1])):
            start, length, past = (int(t[run]) for t in (runs.run_start, runs.run_length, runs.run_past))
            if length:
                assert end <= start <= start + length <= layout.length, "runs overlap"
                end = start + length
            keys = runs.key_order[start : start + length]
            assert (keys.diff() > 0).all()
            assert past == int((keys <= queries[0]).sum())
    assert runs.density == pytest.approx(runs.dense_mask().sum().item() / (layout.length * (layout.length + 1) / 2))


def test_rows_may_be_a_mask():
    layout, config = prompt((5, 4, 6)), SparseConfig(tile=(2, 3))
    mask = torch.rand(layout.length, generator=torch.Generator().manual_seed(0)) < 0.3
    a, b = (built(8, layout, config, rows=rows) for rows in (mask, mask.nonzero()[:, 0].flip(0)))
    pairs = [(getattr(a, field.name), getattr(b, field.name)) for field in fields(a)]
    assert all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)
    assert torch.equal(a.key_order, built(8, layout, config).key_order)


@settings(max_examples=30)
@given(layout=prompts(), config=configs())
def test_everyone_reads_itself_the_prefix_and_text_reads_all(layout, config):
    mask = built(3, layout, config).dense_mask()
    below = torch.ones_like(mask).tril()
    assert mask.diagonal().all()
    assert torch.equal(mask[:, : layout.before], below[:, : layout.before])
    text = torch.ones(layout.length, dtype=torch.bool)
    text[layout.video] = False
    assert torch.equal(mask[text], below[text])


def test_earlier_frames_are_two_runs():
    """Of 40 frames, a query block late in the video reads one run of text and content, one of its tile's past."""
    layout = prompt((40, 16, 32), before=5)
    runs = build(layout, SparseConfig(), random_content(layout))
    tile = int((runs.query_order[runs.row_start[:-1]] > 30 * 512).nonzero()[0])
    some = slice(int(runs.run_ptr[tile]), int(runs.run_ptr[tile + 1]))
    long = runs.run_length[some][runs.run_length[some] > 2 * 128]
    assert len(long) == 2
    assert (runs.run_past[some] > 0).sum() >= 2
    assert long.sum() > 0.85 * runs.run_length[some].sum()


def test_rows_of_a_block_are_of_one_patch():
    """13 x 23 tokens under an 8 x 8 tile: six balanced patches a frame, none a sliver; full blocks but for the last."""
    layout = prompt((9, 13, 23), before=5)
    runs = build(layout, SparseConfig(tile=(8, 8)))
    blocks = [part - 5 for part in runs.query_order.split(runs.row_start.diff().tolist())][1:-1]
    second = torch.cat(blocks[3:7])  # 9 * 42 tokens of the first patch take three blocks
    assert (int((second % 299 // 23).min()), int((second % 299 // 23).max())) == (0, 5)
    assert (int((second % 23).min()), int((second % 23).max())) == (7, 14)
    assert [len(block) for block in blocks[:7]] == [128, 128, 9 * 42 - 256, 128, 128, 128, 9 * 48 - 384]


def test_older_frames_come_at_a_growing_stride():
    def read(frame, **dials):
        return frames_read(frame + 1, SparseConfig(**dials))[frame].nonzero()[:, 0].tolist()

    assert read(0, recent=4) == [0]
    assert read(5, recent=4) == [0, 1, 2, 3, 4, 5]
    assert [40 - frame for frame in read(40, recent=4)] == [40, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1, 0]
    assert read(40, recent=0) == [0, 40]
    assert read(40, recent=0, first_frame=False) == [40]
    assert read(9, recent=1, first_frame=False) == [1, 5, 7, 8, 9]
    gaps = [b - a for a, b in pairwise(read(500, recent=4))]
    assert gaps[1:] == sorted(gaps[1:], reverse=True)
    assert read(40) == list(range(41))


def test_density_falls_with_length():
    densities = [built(16, prompt((frames, 8, 12)), SparseConfig(tile=(4, 4))).density for frames in (1, 4, 16, 64)]
    assert densities[0] == 1.0
    assert densities == sorted(densities, reverse=True)
    assert densities[-1] < 0.25


@pytest.mark.parametrize(
    ("frames", "height", "width", "share"),
    [
        (21, 17, 23, 0.363),
        (84, 17, 23, 0.280),
        (335, 17, 23, 0.258),
        (16, 16, 32, 0.377),
        (64, 16, 32, 0.337),
        (256, 16, 32, 0.328),
    ],
)
def test_density_of_real_prompts(frames, height, width, share):
    """8K, 32K and 128K tokens in frames of 391 and 512, a tenth of them content, wherever it lies."""
    layout = prompt((frames, height, width), before=14, after=40)
    assert build(layout, SparseConfig(), random_content(layout)).density == pytest.approx(share, abs=0.004)


def test_change_is_one_minus_cosine_to_the_frame_before():
    frames = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [1.0, 1.0]], [[0.0, 1.0], [-1.0, -1.0]]])
    change = content_change(frames.view(6, 2), (3, 1, 2))
    torch.testing.assert_close(change, torch.tensor([2.0, 2.0, 0.0, 1 - 0.5**0.5, 1.0, 2.0]))
    assert torch.equal(content_change(torch.rand(4, 3), (1, 2, 2)), torch.zeros(4))


def test_content_is_read_by_every_later_query():
    layout = prompt((8, 4, 4), before=2)
    content = torch.zeros(128)
    content[37] = 1.0
    config = SparseConfig(tile=(2, 2), content=1 / 128)
    mask = built(4, layout, config, content).dense_mask()
    assert mask[2 + 37 :, 2 + 37].all()
    without = built(4, layout, config).dense_mask()
    assert (mask != without).nonzero()[:, 1].unique().tolist() == [39]


def test_of_equal_changes_the_earlier_is_content():
    layout = prompt((50, 4, 4), before=0)
    config = SparseConfig(tile=(2, 2), recent=0, first_frame=False, content=3 / 800)
    mask = built(1, layout, config, torch.zeros(800)).dense_mask()
    assert mask[799, :784].nonzero()[:, 0].tolist() == [0, 1, 2]


def test_what_is_not_a_number_is_no_content():
    layout = prompt((4, 2, 2), before=0)
    content = torch.full((16,), float("nan"))
    content[5] = 0.0
    config = SparseConfig(tile=(1, 1), content=1 / 16)
    least = content.nan_to_num(nan=-1.0)
    assert torch.equal(built(1, layout, config, content).dense_mask(), told(layout, config, least, tile_rows=1))


def test_content_of_one_prompt_does_not_leak_into_the_next():
    layout, config = prompt((6, 4, 4)), SparseConfig(tile=(2, 2))
    before = built(2, layout, config)
    built(2, layout, config, random_content(layout))
    after = built(2, layout, config)
    assert torch.equal(before.dense_mask(), after.dense_mask())
    moved = built(2, prompt((6, 4, 4), before=9, after=0), config)
    assert moved.length == before.length + 2


def test_a_long_prompt_is_planned_in_less_than_a_layer_takes():
    layout = prompt((85, 17, 23), before=14)
    content = random_content(layout)
    build(layout, SparseConfig(), content)
    started = time.process_time()
    runs = build(layout, SparseConfig(), content)
    assert runs.length > 32_000
    assert time.process_time() - started < 0.25


def test_a_grid_that_does_not_fit_is_refused():
    layout = prompt((2, 2, 2))
    wrong = type(layout)(layout.length, layout.video, (2, 2, 3))
    with pytest.raises(ValueError, match="does not hold 8 video tokens"):
        build(wrong, SparseConfig())
