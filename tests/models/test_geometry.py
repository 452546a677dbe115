"""Tokens and bytes from config files alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.models.geometry import VIDEO_MAX_PIXELS, VIDEO_MIN_PIXELS, ModelGeometry, video_pixel_bounds

GEOMETRY = ModelGeometry(layers=28, heads=28, kv_heads=4, head_dim=128)


@pytest.mark.parametrize(
    ("frames", "height", "width", "tokens"), [(16, 480, 854, 4080), (64, 360, 640, 9568), (64, 720, 1280, 23040)]
)
def test_token_counts_of_the_qwen2_vl_processor(frames: int, height: int, width: int, tokens: int) -> None:
    steps, rows, columns = GEOMETRY.grid(frames, height, width)
    assert steps * rows * columns == tokens


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_frame_sizes_are_whole_cells_within_the_bounds(height: int, width: int) -> None:
    rows, columns = GEOMETRY.frame_size(height, width)
    assert rows % 28 == columns % 28 == 0
    assert rows * columns >= VIDEO_MIN_PIXELS
    if max(height, width) <= 20 * min(height, width):
        assert rows * columns <= VIDEO_MAX_PIXELS


def test_a_lower_cap_wins_over_the_minimum() -> None:
    rows, columns = GEOMETRY.frame_size(720, 1280, max_pixels=56 * 84)
    assert rows * columns <= 56 * 84


@pytest.mark.parametrize(
    ("preprocessor", "bounds"),
    [
        ({}, (VIDEO_MIN_PIXELS, VIDEO_MAX_PIXELS)),
        ({"min_pixels": 3136, "max_pixels": 12845056}, (VIDEO_MIN_PIXELS, VIDEO_MAX_PIXELS)),
        ({"size": {"shortest_edge": 3136, "longest_edge": 12845056}}, (VIDEO_MIN_PIXELS, VIDEO_MAX_PIXELS)),
        ({"min_pixels": 168 * 168, "max_pixels": 280 * 280}, (168 * 168, 280 * 280)),
        ({"size": {"shortest_edge": 100352, "longest_edge": 602112}}, (100352, 602112)),
        ({"min_pixels": None, "max_pixels": None}, (VIDEO_MIN_PIXELS, VIDEO_MAX_PIXELS)),
    ],
)
def test_which_bounds_a_video_frame_gets(preprocessor: dict[str, object], bounds: tuple[int, int]) -> None:
    assert video_pixel_bounds(preprocessor) == bounds


def test_small_square_frames_of_a_small_model_stay_as_they_are() -> None:
    sides = range(168, 281, 28)
    low, high = video_pixel_bounds({"min_pixels": 168 * 168, "max_pixels": 280 * 280})
    geometry = ModelGeometry(8, 8, 2, 32, min_pixels=low, max_pixels=high)
    assert [geometry.frame_size(side, side) for side in sides] == [(side, side) for side in sides]


def test_both_layouts_of_config_json_are_read() -> None:
    text = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64}
    vision = {"patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2}
    flat = ModelGeometry.from_config({**text, "vision_config": vision})
    nested = ModelGeometry.from_config({"text_config": text, "vision_config": vision})
    assert flat == nested == ModelGeometry(3, 4, 2, 16, patch=16, min_pixels=128 * 32 * 32, max_pixels=768 * 32 * 32)
    assert flat.cell == 32


def test_a_config_without_sizes_is_an_error() -> None:
    with pytest.raises(KeyError):
        ModelGeometry.from_config({})
