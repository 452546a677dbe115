"""The picture: drawn when there is something to draw, and a red row is not in it."""

from pathlib import Path

import pytest
from PIL import Image

from purekv_cli.bench.plot import draw, ticks
from tests.bench.found import result, row


def colours(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as picture:
        return {colour for _, colour in picture.convert("RGB").getcolors(2**24) or []}  # type: ignore[misc]


RED = (0xD1, 0x49, 0x5B)  # of the third line, purekv 0.2


def test_lines_over_two_lengths(tmp_path: Path) -> None:
    found = result()
    found.rows += [row("stock", [(1.2, 1.3, 0.04)], 400, 400, "32k"), row("whole", [(0.5, 0.6, 0.01)], 80, 100, "32k")]
    path = tmp_path / "bench.png"
    assert draw(found, path)
    with Image.open(path) as picture:
        assert picture.width == 1360
    assert RED in colours(path)


def test_a_row_behind_a_red_gate_is_not_drawn(tmp_path: Path) -> None:
    path = tmp_path / "bench.png"
    assert draw(result(broken="whole"), path)
    assert RED not in colours(path)


def test_nothing_measured_is_no_picture(tmp_path: Path) -> None:
    found = result()
    found.rows.clear()
    assert not draw(found, tmp_path / "bench.png")
    assert not (tmp_path / "bench.png").exists()


@pytest.mark.parametrize("low", [1e-6, 0.003, 0.2, 7.0])
@pytest.mark.parametrize("reach", [2.0, 30.0, 1000.0])
def test_ticks_are_round_few_and_inside(low: float, reach: float) -> None:
    values = ticks((low, low * reach), binary=False)
    assert 1 <= len(values) <= 9
    assert all(low <= value <= low * reach for value in values)
    assert all(f"{value:.0e}"[0] in "125" for value in values)


def test_bytes_are_marked_in_powers_of_two() -> None:
    assert ticks((3.0, 40.0), binary=True) == [4, 8, 16, 32]
    assert len(ticks((1.0, 2.0**40), binary=True)) <= 9
