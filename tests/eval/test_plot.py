"""The picture: what is drawn where, read off its pixels."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from purekv_cli.bench.pen import BAND
from purekv_cli.eval.arms import Arm
from purekv_cli.eval.plot import _OURS, draw
from purekv_cli.eval.records import Graded
from purekv_cli.eval.summary import summarise
from purekv_cli.method.policies import POLICIES
from tests.eval.graded import answers, items


def rows(policies: tuple[str, ...], suites: tuple[str, ...] = ("medium",)) -> list[Graded]:
    found = []
    for suite in suites:
        asked = items(8, 4, suite)
        found += answers(asked, Arm("dense", "1", "unknown"))
        for at, policy in enumerate(policies):
            for budget, wrong in (("0.2", 16), ("0.1", 8), ("0.05", 4 + at % 3)):
                found += answers(asked, Arm(policy, budget, "unknown"), wrong)
    return found


def share(path: Path, colour: str) -> float:
    """Of the picture's pixels that have this colour, within what scaling does to it."""
    with Image.open(path) as picture:
        away = np.abs(np.asarray(picture.convert("RGB"), dtype=int) - ImageColor.getrgb(colour)).max(-1)
    return float((away < 4).mean())


def test_ours_is_drawn_with_its_band(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    assert draw("demo", summarise(rows(("purekv", "random"))), path)
    assert share(path, _OURS) > 0.0003
    assert share(path, BAND) > 0.01


def test_without_ours_there_is_no_band(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    assert draw("demo", summarise(rows(("random",))), path)
    assert share(path, BAND) == 0


def test_every_suite_and_moment_has_a_panel(tmp_path: Path) -> None:
    sizes = []
    for suites in (("short",), ("short", "long")):
        path = tmp_path / f"{len(suites)}.png"
        assert draw("demo", summarise(rows(tuple(POLICIES), suites)), path)
        with Image.open(path) as picture:
            sizes.append(picture.size)
    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] > 1.5 * sizes[0][1]


def test_one_budget_one_video_all_right_and_all_wrong_can_be_drawn(tmp_path: Path) -> None:
    asked = items(1, 1)
    for wrong in (0, 1):
        found = summarise(answers(asked, Arm("purekv", "0.2", "unknown"), wrong))
        assert draw("demo", found, tmp_path / "x.png")


def test_nothing_gives_no_picture(tmp_path: Path) -> None:
    assert not draw("demo", [], tmp_path / "x.png")
    assert not draw("demo", summarise(answers(items(1, 1), Arm("dense", "1", "unknown"))), tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()
