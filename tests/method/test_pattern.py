"""The pattern against its rules written out one query and one key at a time."""

import time
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purekv_cli.method import runs as run_lists
from purekv_cli.method.config import SparseConfig
from purekv_cli.method.pattern import build, content_change, frames_read
from tests.method.prompts import prompt


def bounds(extent, size):
    """Tiles of nearly one size, none larger than `size`."""
    parts = -(-extent // size)
    edges = [part * extent // parts for part in range(parts + 1)]
    return [(low, high) for low, high in pairwise(edges)]


def slow_mask(layout, config, content=None):
    """The rules as they are told, in prompt order: mask[i][j] says whether token i reads token j."""
    _, height, width = layout.grid
    place = {
        position: (n // (height * width), n // width % height, n % width)
        for n, position in enumerate(layout.video.tolist())
    }
    columns = set()
    if content is not None:
        best = sorted(range(len(content)), key=lambda n: (-float(content[n]), n))
        columns = {int(layout.video[n]) for n in best[: round(config.content * len(content))]}

    def near(query, key):
        for low, high in bounds(height, config.tile[0]):
            for left, right in bounds(width, config.tile[1]):
                if low <= query[1] < high and left <= query[2] < right:
                    return (
                        low - config.halo <= key[1] < high + config.halo
                        and left - config.halo <= key[2] < right + config.halo
                    )
        raise AssertionError("every token has a tile")

    def reads(i, j):
        if j > i:
            return False
        if i not in place or j not in place or j in columns or place[i][0] == place[j][0]:
            return True
        return place[j][0] in frames_read(place[i][0], config) and near(place[i], place[j])

    return torch.tensor([[reads(i, j) for j in range(layout.length)] for i in range(layout.length)])


def mask_of(runs):
    """The pattern's mask in prompt order."""
    return runs.dense_mask()[runs.inverse][:, runs.inverse]


def random_content(layout, seed=0):
    return torch.rand(len(layout.video), generator=torch.Generator().manual_seed(seed))


@st.composite
def prompts(draw):
    grid = (draw(st.integers(1, 7)), draw(st.integers(1, 4)), draw(st.integers(1, 5)))
    text = [draw(st.integers(0, 3)) for _ in range(2)]
    return prompt(grid, *text, between=draw(st.sampled_from([0, 0, 2])), inside=draw(st.sampled_from([0, 0, 1])))


@st.composite
def configs(draw):
    return SparseConfig(
        tile=(draw(st.integers(1, 5)), draw(st.integers(1, 5))),
        halo=draw(st.integers(0, 2)),
        recent=draw(st.integers(0, 3)),
        content=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        first_frame=draw(st.booleans()),
    )


@settings(max_examples=60, deadline=None)
@given(layout=prompts(), config=configs(), content=st.booleans())
def test_the_mask_is_what_the_rules_say(layout, config, content):
    changed = random_content(layout) if content else None
    assert torch.equal(mask_of(build(layout, config, changed)), slow_mask(layout, config, changed))


@settings(max_examples=60, deadline=None)
@given(layout=prompts(), config=configs())
def test_runs_are_well_formed(layout, config):
    runs = build(layout, config, random_content(layout))
    assert sorted(runs.order.tolist()) == list(range(layout.length))
    assert torch.equal(runs.order[runs.inverse], torch.arange(layout.length))
    assert runs.row_start[0] == 0
    assert runs.row_start[-1] == layout.length
    assert (runs.row_start.diff() > 0).all()
    assert (runs.row_start.diff() <= 128).all()
    assert (runs.run_length > 0).all()
    for tile in range(runs.tiles):
        some = slice(int(runs.run_ptr[tile]), int(runs.run_ptr[tile + 1]))
        start, stop = runs.run_start[some], runs.run_start[some] + runs.run_length[some]
        assert (start[1:] > stop[:-1]).all(), "runs overlap or were not merged"
        assert stop[-1] <= layout.length
    assert runs.density == pytest.approx(runs.dense_mask().sum().item() / (layout.length * (layout.length + 1) / 2))


@settings(max_examples=30, deadline=None)
@given(layout=prompts(), config=configs())
def test_everyone_reads_itself_the_prefix_and_text_reads_all(layout, config):
    mask = mask_of(build(layout, config))
    below = torch.ones_like(mask).tril()
    assert mask.diagonal().all()
    assert torch.equal(mask[:, : layout.before], below[:, : layout.before])
    text = torch.ones(layout.length, dtype=torch.bool)
    text[layout.video] = False
    assert torch.equal(mask[text], below[text])


def test_rows_of_a_tile_are_a_patch_of_the_frame():
    """13 x 23 tokens under an 8 x 8 tile: six balanced patches a frame, none a sliver."""
    layout = prompt((2, 13, 23), before=5)
    runs = build(layout, SparseConfig(tile=(8, 8)))
    patches = [
        runs.order[runs.row_start[t] : runs.row_start[t + 1]] for t in range(runs.tiles) if runs.row_start[t] >= 5
    ][:12]
    sizes = [len(patch) for patch in patches]
    assert sizes == [6 * 7, 6 * 8, 6 * 8, 7 * 7, 7 * 8, 7 * 8] * 2
    second = patches[1] - 5
    assert (int(second.min()) // 23, int(second.max()) // 23) == (0, 5)
    assert (int((second % 23).min()), int((second % 23).max())) == (7, 14)


def test_text_stays_where_it_is():
    layout = prompt((3, 4, 6), before=5, after=7, between=2)
    runs = build(layout, SparseConfig(tile=(2, 2)))
    text = torch.ones(layout.length, dtype=torch.bool)
    text[layout.video] = False
    assert torch.equal(runs.order[text], torch.arange(layout.length)[text])


def test_older_frames_come_at_a_growing_stride():
    config = SparseConfig(recent=4, first_frame=True)
    assert frames_read(0, config) == []
    assert frames_read(5, config) == [0, 1, 2, 3, 4]
    assert [40 - frame for frame in frames_read(40, config)] == [40, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1]
    assert frames_read(40, SparseConfig(recent=0)) == [0]
    assert frames_read(40, SparseConfig(recent=0, first_frame=False)) == []
    assert frames_read(9, SparseConfig(recent=1, first_frame=False)) == [1, 5, 7, 8]
    gaps = [b - a for a, b in pairwise(frames_read(500, config))]
    assert gaps[1:] == sorted(gaps[1:], reverse=True)


def test_density_falls_with_length():
    densities = [build(prompt((frames, 8, 12)), SparseConfig(tile=(4, 4))).density for frames in (1, 4, 16, 64)]
    assert densities[0] == 1.0
    assert densities == sorted(densities, reverse=True)
    assert densities[-1] < 0.2


def test_change_is_one_minus_cosine_to_the_frame_before():
    frames = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [1.0, 1.0]], [[0.0, 1.0], [-1.0, -1.0]]])
    change = content_change(frames.view(6, 2), (3, 1, 2))
    torch.testing.assert_close(change, torch.tensor([2.0, 2.0, 0.0, 1 - 0.5**0.5, 1.0, 2.0]))
    assert torch.equal(content_change(torch.rand(4, 3), (1, 2, 2)), torch.zeros(4))


def test_content_is_read_by_every_later_query():
    layout = prompt((8, 4, 4), before=2)
    content = torch.zeros(128)
    content[37] = 1.0
    config = SparseConfig(tile=(2, 2), halo=0, recent=1, first_frame=False, content=1 / 128)
    mask = mask_of(build(layout, config, content))
    assert mask[2 + 37 :, 2 + 37].all()
    without = mask_of(build(layout, config))
    assert (mask != without).nonzero()[:, 1].unique().tolist() == [39]


def test_of_equal_changes_the_earlier_is_content():
    layout = prompt((50, 4, 4), before=0)
    config = SparseConfig(tile=(2, 2), halo=0, recent=0, first_frame=False, content=3 / 800)
    mask = mask_of(build(layout, config, torch.zeros(800)))
    assert mask[799, :784].nonzero()[:, 0].tolist() == [0, 1, 2]


def test_density_is_counted_in_pieces(monkeypatch):
    pattern = build(prompt((5, 4, 6)), SparseConfig(tile=(2, 2), recent=1), random_content(prompt((5, 4, 6))))
    whole = pattern.density
    monkeypatch.setattr(run_lists, "_EXPANDED", 30)
    assert pattern.density == whole


def test_content_of_one_prompt_does_not_leak_into_the_next():
    layout, config = prompt((6, 4, 4)), SparseConfig(tile=(2, 2), recent=1)
    before = build(layout, config)
    build(layout, config, random_content(layout))
    after = build(layout, config)
    assert torch.equal(before.dense_mask(), after.dense_mask())
    moved = build(prompt((6, 4, 4), before=9, after=0), config)
    assert len(moved.order) == len(before.order) + 2


def test_an_hour_of_tokens_is_planned_in_well_under_a_second():
    layout = prompt((85, 15, 26), before=14)
    content = random_content(layout)
    started = time.process_time()
    runs = build(layout, SparseConfig(), content)
    assert len(runs.order) > 32_000
    assert time.process_time() - started < 1.0


def test_a_grid_that_does_not_fit_is_refused():
    layout = prompt((2, 2, 2))
    wrong = type(layout)(layout.length, layout.video, (2, 2, 3))
    with pytest.raises(ValueError, match="does not hold 8 video tokens"):
        build(wrong, SparseConfig())
