"""Patches equal those of Qwen2VLVideoProcessor bit for bit.

The goldens were made once by tests/data/make_goldens.py, where torchvision exists: hashes of every case, two whole
tensors for a readable difference. The uint8 resize is integer arithmetic, so the CPU's vector units must not matter;
one test repeats it with torch's plain code path.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from purekv_cli.models.geometry import ModelGeometry
from purekv_cli.models.preprocess import PixelScale, preprocess, to_patches, upload
from tests.models.golden_cases import PIXELS, PixelCase, digest

DATA = Path(__file__).parents[1] / "data"
GOLDEN = json.loads((DATA / "pixels.json").read_text())


def patches(case: PixelCase) -> tuple[torch.Tensor, torch.Tensor]:
    geometry = ModelGeometry(28, 28, 4, 128, min_pixels=case.min_pixels, max_pixels=case.max_pixels)
    return preprocess(case.pixels(), geometry.frame_size(case.height, case.width), geometry, PixelScale())


@pytest.mark.parametrize("case", PIXELS, ids=lambda case: case.name)
def test_every_bit_is_the_library_processors(case: PixelCase) -> None:
    values, grid = patches(case)
    assert grid.tolist() == GOLDEN[case.name]["grid"]
    if case.full:
        expected = load_file(DATA / "pixels.safetensors")[case.name]
        torch.testing.assert_close(values, expected, rtol=0, atol=0)
    assert digest(values) == GOLDEN[case.name]["sha256"]


def test_plain_cpu_code_makes_the_same_bits() -> None:
    code = (
        "from tests.models.test_preprocess import *\n"
        "assert torch.backends.cpu.get_cpu_capability() == 'DEFAULT'\n"
        "for case in PIXELS[:6]: assert digest(patches(case)[0]) == GOLDEN[case.name]['sha256'], case.name\n"
    )
    env = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, cwd=DATA.parents[1])


def test_another_dtype_is_the_float_result_rounded() -> None:
    case = PIXELS[-1]  # 67 frames: more than one slice, odd
    geometry = ModelGeometry(28, 28, 4, 128)
    full, _ = preprocess(case.pixels(), (84, 56), geometry, PixelScale())
    half, _ = preprocess(case.pixels(), (84, 56), geometry, PixelScale(), dtype=torch.bfloat16)
    assert torch.equal(full.bfloat16(), half)


def test_checkpoint_statistics_are_used() -> None:
    scale = PixelScale.from_config({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]})
    white = np.full((2, 28, 28, 3), 255, np.uint8)
    values, _ = preprocess(white, (28, 28), ModelGeometry(1, 1, 1, 8), scale)
    assert torch.all(values == 2)


def test_a_slice_is_made_of_bytes_on_any_device() -> None:
    """The upload is bytes, and what a GPU makes of them is what the CPU makes, bit for bit."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 56, 84, 3), dtype=np.uint8)
    geometry = ModelGeometry(1, 1, 1, 8)
    there = upload(torch.from_numpy(pixels), device)
    assert (there.dtype, there.device.type) == (torch.uint8, device.type)
    made = to_patches(there, geometry, PixelScale())
    expected, grid = preprocess(pixels, (56, 84), geometry, PixelScale())
    assert grid.tolist() == [[3, 4, 6]]
    assert torch.equal(made.flatten(0, 1).cpu(), expected)
    for dtype in (torch.float32, torch.bfloat16):
        values, _ = preprocess(pixels, (56, 84), geometry, PixelScale(), device, dtype)
        assert torch.equal(values.cpu(), expected.to(dtype))


def test_patches_follow_the_definition() -> None:
    """Merged tokens in raster order, their patches in raster order, values by channel, frame, row, column."""
    pixels = np.random.default_rng(1).integers(0, 256, (3, 56, 84, 3), dtype=np.uint8)
    values, _ = preprocess(pixels, (56, 84), ModelGeometry(1, 1, 1, 8), PixelScale((0, 0, 0), (1, 1, 1)))
    values = values.view(2, 2, 3, 2, 2, 3, 2, 14, 14).mul(255).round()
    for step, row, column, inner_row, inner_column, channel, frame in np.ndindex(values.shape[:7]):
        top, left = (row * 2 + inner_row) * 14, (column * 2 + inner_column) * 14
        source = pixels[min(step * 2 + frame, 2), top : top + 14, left : left + 14, channel]
        got = values[step, row, column, inner_row, inner_column, channel, frame]
        assert torch.equal(got, torch.from_numpy(source).float())
