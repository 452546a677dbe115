"""Tokens and bytes from config files alone."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, MistralConfig, Qwen2Config

from purekv_cli.models.geometry import (
    VIDEO_MAX_PIXELS,
    VIDEO_MIN_PIXELS,
    ModelGeometry,
    single_frames,
    squares,
    thinker,
    video_pixel_bounds,
)

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


QWEN7B = {"num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "hidden_size": 3584}
SIGLIP = {"image_size": 384, "patch_size": 14}
CENTRE = {"do_center_crop": True}


@pytest.mark.parametrize(
    ("config", "preprocessor", "size", "cells", "kib", "most"),
    [
        pytest.param(
            {"text_config": {**QWEN7B, "max_position_embeddings": 32768}, "vision_config": SIGLIP},
            {},
            (384, 384),
            14,
            56,
            144,
            id="llava-onevision-qwen2-7b-ov-hf",
        ),
        pytest.param(
            {
                "text_config": {"model_type": "llama", "max_position_embeddings": 4096},
                "vision_config": {"image_size": 336, "patch_size": 14},
            },
            CENTRE,
            (336, 597),
            12,
            512,
            18,
            id="LLaVA-NeXT-Video-7B-hf",
        ),
        pytest.param(
            {
                "text_config": {**QWEN7B, "max_position_embeddings": 32768},
                "vision_config": {"image_size": [448, 448], "patch_size": [14, 14]},
                "downsample_ratio": 0.5,
            },
            {},
            (448, 448),
            16,
            56,
            113,
            id="InternVL3-8B-hf",
        ),
        pytest.param(
            {
                "text_config": {
                    "num_hidden_layers": 24,
                    "num_attention_heads": 32,
                    "hidden_size": 2048,
                    "max_position_embeddings": 8192,
                },
                "vision_config": SIGLIP,
                "scale_factor": 3,
            },
            {},
            (384, 384),
            9,
            192,
            68,
            id="SmolVLM2-2.2B-Instruct",
        ),
    ],
)
def test_squares(
    config: dict[str, Any], preprocessor: dict[str, Any], size: tuple[int, int], cells: int, kib: int, most: int
) -> None:
    """Sizes as the released config.json files have them, of 720p frames."""
    geometry = squares(config, preprocessor)
    assert geometry.frame_size(720, 1280) == size
    assert geometry.grid(7, 720, 1280) == (7, cells, cells)
    assert geometry.kv_bytes(1) == kib * 1024
    assert geometry.max_frames == most


def test_what_a_release_leaves_out_is_its_decoders_default() -> None:
    """As transformers' config classes have it."""
    vision = {"image_size": 336, "patch_size": 14}
    for kind, config in (("llama", LlamaConfig()), ("mistral", MistralConfig()), ("qwen2", Qwen2Config())):
        bare = squares({"text_config": {"model_type": kind}, "vision_config": vision})
        assert bare == squares({"text_config": config.to_dict(), "vision_config": vision})


def test_a_step_of_videollama3_is_one_frame() -> None:
    config = {"text_config": QWEN7B, "vision_config": {"patch_size": 14}}
    geometry = single_frames(config, {"merge_size": 2})
    assert geometry.grid(7, 720, 1280) == (7, 20, 36)
    assert geometry.cell == 28


def test_the_thinker_is_inside() -> None:
    inner = {"text_config": QWEN7B, "vision_config": {"patch_size": 14}}
    hears = replace(ModelGeometry.from_config(inner), audio_rate=25, audio_seconds=300.0)
    assert thinker({"thinker_config": inner}) == thinker(inner) == hears
    assert [hears.tokens_of_sound(seconds) for seconds in (0.0, 2.0, 1000.0)] == [0, 50, 7500]
    assert thinker(inner, {"chunk_length": 30}).tokens_of_sound(1000.0) == 750


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
