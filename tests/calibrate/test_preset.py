"""What is written is read back by --preset, and is a picture where a picture is due."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageColor

from purekv_cli.calibrate.choose import Choice, Cost
from purekv_cli.calibrate.correlation import Matrix
from purekv_cli.calibrate.draw import colour, draw
from purekv_cli.calibrate.preset import to_toml
from purekv_cli.calibrate.table import blocks, rows
from purekv_cli.calibrate.trials import Dialled, Trial
from purekv_cli.method.config import MethodConfig, Propagation
from purekv_cli.presets import read_preset

COST = Cost(  # of 12 questions: too few
    Trial("budget", "purekv 0.2", Dialled("purekv", "0.2", "known")), 12, 11, 0.012, 0.2, 0.0, 0.0, 0
)


@pytest.mark.parametrize("name", ["demo", "Qwen/Qwen2.5-VL-7B-Instruct", 'odd "name" \\ of [a] folder, ü'])
@pytest.mark.parametrize("propagate", [None, Propagation(4, 0.35)])
def test_the_preset_says_what_was_chosen(tmp_path: Path, name: str, propagate: Propagation | None) -> None:
    path, weights = tmp_path / "mine.toml", (1.0, 0.5) if propagate else ()
    bare: tuple[int, ...] | None = () if propagate else None
    choice = Choice((2, 3), 0.41, weights, bare, 0.1, propagate, propagate is None)
    path.write_text(to_toml(name, [name], 0.1, choice, [COST], {"layers": 8, "model": name}), encoding="utf-8")
    preset = read_preset(path)
    assert (preset.calibrated, preset.models) == (True, (name,))
    assert (str(preset.method.budget), preset.method.score_layers) == ("0.1", (2, 3))
    assert (preset.method.layer_weights, preset.method.preamble_layers, preset.method.carry) == (weights, bare, 0.1)
    assert (preset.method.propagate, preset.method.sparse.enabled) == (propagate, propagate is None)
    text = path.read_text(encoding="utf-8")
    assert ("20 questions about two clips are needed to tell" in text) is (propagate is None)
    assert "11/12" in text


def test_what_is_not_known_stays_the_default(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml("demo", ["demo"], 0.2, Choice((0,), 0.1, (), None, 1.0, None, None), [COST], {"layers": 8}))
    assert "enabled" not in path.read_text()
    assert read_preset(path).method.sparse == MethodConfig().sparse


def test_the_clip_settings_are_those_that_the_model_had(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml("demo", ["demo"], 0.2, Choice((0,), 0.1, (), None, 1.0, None, True), [], {"layers": 8}))
    assert (read_preset(path).clip.max_frames, read_preset(path).clip.sample) == (128, "uniform")


def matrix(size: int = 4) -> Matrix:
    mean = torch.linspace(-1, 1, 2 * size * size, dtype=torch.float64).view(2, size, size)
    return Matrix("question", mean, mean * 0, 3)


def test_the_picture_shows_every_pair_of_layers(tmp_path: Path) -> None:
    path = tmp_path / "matrix.png"
    seen = matrix(20)  # too many layers for numbers in the cells
    draw("demo", {"question": seen}, [1], path)
    shown = {pixel for _, pixel in Image.open(path).convert("RGB").getcolors(2**24) or []}
    for rho in seen.mean.flatten().tolist():
        assert ImageColor.getrgb(colour(rho)) in shown, rho


def test_colours_run_from_red_over_white_to_blue() -> None:
    assert (colour(-1), colour(0), colour(1)) == ("#d1495b", "#ffffff", "#1f4e9c")
    assert colour(math.nan) not in {colour(n / 10) for n in range(-10, 11)}


def test_the_terminal_shows_the_matrix_with_value_norms() -> None:
    mean = torch.stack([torch.zeros(2, 2), torch.tensor([[1.0, 0.5], [-0.3, math.nan]])]).double()
    assert blocks(Matrix("video", mean, mean, 1))[-2:] == ["  0 ██▒▒", "  1     "]


def test_one_line_a_trial_under_a_heading_for_each_kind() -> None:
    lines = rows([COST, COST])
    assert len(lines) == 3
    assert "right" in lines[0]
    assert "11/12" in lines[1]
