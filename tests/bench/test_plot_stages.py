"""The picture of the wait: bars whose stages add up, without what a red gate covers."""

from pathlib import Path

import pytest
from PIL import Image

from purekv_cli.bench.plot_stages import draw, shares
from purekv_cli.bench.result import Check, Result, Stages, Walk
from tests.bench.found import result, row


def walked(*broken: str) -> Result:
    found = result()
    found.checks += [Check("tower", False, "off", frozenset({kind})) for kind in broken]
    for kind, vision in (("stock", 1.5), ("whole", 0.1)):
        runs = [Stages(0.3, 0.2, vision, 0.5, 1.1 + vision), Stages(0.5, 0.2, vision, 0.5, 1.3 + vision)]
        found.walks.append(Walk("clip.mp4", 23_000, row(kind, [], 1, 1).arm, runs))
    return found


def test_stages_are_means_that_add_up_to_the_whole_wait() -> None:
    walk = walked().walks[0]
    assert shares(walk) == pytest.approx({"decode": 0.4, "prepare": 0.2, "vision": 1.5, "prefill": 0.5, "rest": 0.1})
    assert sum(shares(walk).values()) == pytest.approx(walk.stage("first_token").mean)


@pytest.mark.parametrize(("broken", "bars"), [((), 2), (("file",), 1), (("whole",), 1)], ids=str)
def test_one_bar_for_every_row_whose_gate_is_green(tmp_path: Path, broken: tuple[str, ...], bars: int) -> None:
    assert draw(walked(*broken), tmp_path / "wait.png")
    with Image.open(tmp_path / "wait.png") as picture:
        assert picture.size == (1360, 100 + 58 * bars + 64)


def test_nothing_walked_is_no_picture(tmp_path: Path) -> None:
    assert not draw(result(), tmp_path / "wait.png")
    assert not (tmp_path / "wait.png").exists()
