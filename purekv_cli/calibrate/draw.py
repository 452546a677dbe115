"""The correlation matrices as a picture: one panel a set of observed rows, without and with value norms.

A cell is the mean rank correlation between the estimate of a score layer (its row) and the own attention mass of a
layer (its column): white is none, dark blue is equal order, red is the opposite. Chosen score layers carry a mark.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from purekv_cli.bench.pen import GRID, INK, SOFT, Pen
from purekv_cli.calibrate.correlation import Matrix
from purekv_cli.method.config import Observe

_PANEL, _LEFT, _TOP, _HEADER, _GAP, _BOTTOM = 330, 64, 74, 62, 40, 84
_ROWS = {
    "question": "text after the video",
    "video": "last 32 video rows",
    "all": "all rows (early tokens are seen by more)",
}
_GOOD, _BAD, _NONE = (31, 78, 156), (209, 73, 91), (255, 255, 255)
_NUMBERS = 12  # layers up to which cells carry their number


def draw(title: str, matrices: Mapping[Observe, Matrix], score_layers: Sequence[int], path: Path) -> None:
    """Write the picture."""
    width = _LEFT + len(matrices) * (_PANEL + _GAP) + 10
    pen = Pen(width, _HEADER + 2 * (_PANEL + _TOP) + _BOTTOM)
    pen.text((24, 16), "Rank correlation: a score layer's estimate against each layer's own attention", 21, INK)
    pen.text((24, 44), title, 14, SOFT)
    for column, matrix in enumerate(matrices.values()):
        for row, name in enumerate(("without value norms", "with the layer's value norms")):
            left, top = _LEFT + column * (_PANEL + _GAP), _HEADER + row * (_PANEL + _TOP) + _TOP
            spread = float(matrix.spread[row].nanmean())
            pen.text((left, top - 58), _ROWS[matrix.observe], 14, INK)
            pen.text((left, top - 40), f"{name}; deviation {spread:.2f} on average", 12, SOFT)
            _panel(pen, matrix.mean[row].tolist(), (left, top), score_layers)
    _legend(pen, _HEADER + 2 * (_PANEL + _TOP) + 24, score_layers)
    pen.save(path)


def _panel(pen: Pen, values: Sequence[Sequence[float]], corner: tuple[float, float], marked: Sequence[int]) -> None:
    """Score layers downwards, layers across."""
    left, top = corner
    size, cell = len(values), _PANEL / len(values)
    every = max(1, math.ceil(size / 14))
    pen.box((left - 1, top - 1), (left + _PANEL, top + _PANEL), GRID)
    for source, row in enumerate(values):
        y = top + source * cell
        if source % every == 0 or source in marked:
            pen.text((left - 14, y + cell / 2), str(source), 12, INK if source in marked else SOFT, anchor="rm")
        if source in marked:
            pen.box((left - 10, y + 1), (left - 5, y + cell - 2), "#d1495b")
        if source % every == 0:
            pen.text((left + (source + 0.5) * cell, top - 11), str(source), 11, SOFT, anchor="mm")
        for layer, rho in enumerate(row):
            x = left + layer * cell
            pen.box((x, y), (x + cell - 1, y + cell - 1), colour(rho))
            if size <= _NUMBERS and not math.isnan(rho):
                ink = "#ffffff" if abs(rho) > 0.55 else INK
                pen.text((x + cell / 2, y + cell / 2), f"{rho:.2f}", 11, ink, anchor="mm")


def _legend(pen: Pen, top: float, marked: Sequence[int]) -> None:
    for step in range(41):
        pen.box((_LEFT + 6 * step, top), (_LEFT + 6 * step + 6, top + 14), colour(step / 20 - 1))
    for at, text in ((0, "-1"), (20, "0"), (40, "1")):
        pen.text((_LEFT + 6 * at + 3, top + 20), text, 12, SOFT, anchor="mt")
    layers = ", ".join(map(str, marked))
    text = f"down: score layer; across: layer it estimates; marked: chosen for purekv-paper ({layers})"
    pen.text((_LEFT + 290, top), text, 13, SOFT)


def colour(rho: float) -> str:
    """White at 0, blue towards 1, red towards -1; grey where there is no number."""
    if math.isnan(rho):
        return GRID
    end = _GOOD if rho >= 0 else _BAD
    part = min(1.0, abs(rho))
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(_NONE, end, strict=True))
