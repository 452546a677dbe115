"""Share of right answers over the KV bytes that are kept: a panel a suite and moment, one line a policy.

Ours is drawn thick with the band of its 95 % intervals; dense is the dashed line across. The axis of bytes is
logarithmic.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from purekv_cli.bench.pen import BAND, COLOURS, GRID, INK, SOFT, Drawing, Kind, Pen, Point
from purekv_cli.eval.arms import WHENS
from purekv_cli.eval.summary import DENSE, OURS, Line

HEADER = 74  # px of title
_WIDE, _HIGH, _LEGEND_LINE = 460, 330, 24  # of a panel, of a line of keys
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 40, 52  # margins of a panel around its axes
_KEY = 230  # width of a key in the legend
_OURS = COLOURS[2]
_OTHERS = [*(colour for colour in COLOURS if colour != _OURS), "#00838f", "#9e9d24"]
_MOMENT = {"unknown": "question unknown", "known": "question known", "prompt": "after the prompt"}


@dataclass(frozen=True, slots=True)
class _Look:
    """How a line is drawn: its policy's colour, and whether that colour is used a second time."""

    colour: str
    dashed: bool
    width: float


@dataclass(frozen=True, slots=True)
class _Axes:
    """One panel, in pixels before scaling."""

    left: float
    top: float
    x: tuple[float, float]  # share of bytes
    y: tuple[float, float]  # share of right answers

    @property
    def right(self) -> float:
        return self.left + _WIDE - _LEFT - _RIGHT

    @property
    def bottom(self) -> float:
        return self.top + _HIGH - _TOP - _BOTTOM

    def place(self, kept: float, share: float) -> Point:
        across = math.log(kept / self.x[0]) / math.log(self.x[1] / self.x[0])
        up = (share - self.y[0]) / (self.y[1] - self.y[0])
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)


def draw(title: str, lines: Sequence[Line], path: Path) -> bool:
    """Write the picture; False when there is nothing to draw."""
    if pen := drawn(title, lines, Pen):
        pen.save(path)
    return pen is not None


def drawn(title: str, lines: Sequence[Line], kind: type[Kind]) -> Kind | None:
    """The picture; None when there is nothing to draw."""
    shown = [line for line in lines if line.asked and not line.arm.is_baseline]
    if not shown:
        return None
    suites = list(dict.fromkeys(line.suite for line in shown))
    moments = [when for when in WHENS if any(line.arm.when == when for line in shown)]
    looks = _looks(shown)
    columns = max(1, len(moments) * _WIDE // _KEY)
    legend = -(-len(looks) // columns)
    width = max(_WIDE * len(moments), 700)
    pen = kind(width, HEADER + _HIGH * len(suites) + legend * _LEGEND_LINE + 24)
    pen.text((_LEFT - 40, 18), "Right answers over KV bytes kept", 21, INK)
    pen.text((_LEFT - 40, 46), title, 14, SOFT)
    x = _extent_x(shown)
    for row, suite in enumerate(suites):
        of_suite = [line for line in shown if line.suite == suite]
        dense = next((line for line in lines if line.suite == suite and line.arm.is_baseline and line.asked), None)
        for column, when in enumerate(moments):
            here = [line for line in of_suite if line.arm.when == when]
            axes = _Axes(column * _WIDE + _LEFT, HEADER + row * _HIGH + _TOP, x, _extent_y(of_suite, dense))
            _draw_panel(pen, axes, f"{suite}, {_MOMENT[when]}", here, dense, looks)
    for at, (label, look) in enumerate(looks.items()):
        place = (_LEFT - 40 + at % columns * _KEY, HEADER + _HIGH * len(suites) + at // columns * _LEGEND_LINE + 10)
        pen.line([place, (place[0] + 36, place[1])], look.colour, look.width, dashed=look.dashed)
        pen.text((place[0] + 46, place[1]), label, 13, INK, anchor="lm")
    return pen


def _looks(lines: Sequence[Line]) -> dict[str, _Look]:
    """Ours first; the others take the colours in turn, dashed when a colour comes again."""
    labels = list(dict.fromkeys(line.arm.label for line in lines))
    looks = {OURS: _Look(_OURS, False, 4.0)} if OURS in labels else {}
    for at, label in enumerate(name for name in labels if name != OURS):
        looks[label] = _Look(_OTHERS[at % len(_OTHERS)], at // len(_OTHERS) % 2 == 1, 2.0)
    return looks


def _extent_x(lines: Sequence[Line]) -> tuple[float, float]:
    kept = [line.kept for line in lines]
    return min(kept) / 1.15, max(1.0, *kept) * 1.05


def _extent_y(lines: Sequence[Line], dense: Line | None) -> tuple[float, float]:
    """Of a suite: all its panels have one scale."""
    shares = [line.share for line in (*lines, *([dense] if dense else []))]
    room = 0.06 * max(0.05, max(shares) - min(shares))
    return max(0.0, min(shares) - room), min(1.0, max(shares) + room)


def _draw_panel(
    pen: Drawing, axes: _Axes, title: str, lines: Sequence[Line], dense: Line | None, looks: dict[str, _Look]
) -> None:
    pen.text((axes.left, axes.top - 28), title, 15, INK)
    ours = _series(lines, OURS)
    _draw_band(pen, axes, ours)
    for share in _ticks(axes.y):
        y = axes.place(axes.x[0], share)[1]
        pen.line([(axes.left, y), (axes.right, y)], GRID, 1)
        pen.text((axes.left - 8, y), f"{100 * share:.0f} %", 12, SOFT, anchor="rm")
    for kept in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0):
        if axes.x[0] <= kept <= axes.x[1]:
            x = axes.place(kept, axes.y[0])[0]
            pen.line([(x, axes.top), (x, axes.bottom)], GRID, 1)
            pen.text((x, axes.bottom + 8), f"{100 * kept:.0f} %", 12, SOFT, anchor="mt")
    pen.line([(axes.left, axes.bottom), (axes.right, axes.bottom)], SOFT, 1.4)
    pen.text(
        ((axes.left + axes.right) / 2, axes.bottom + 28), "KV bytes kept, of the full cache", 12, SOFT, anchor="mt"
    )
    if dense:
        y = axes.place(axes.x[0], dense.share)[1]
        pen.line([(axes.left, y), (axes.right, y)], INK, 1.4, dashed=True)
        pen.text((axes.right, y + 3), DENSE, 12, INK, anchor="ra")
    for label, look in reversed(looks.items()):  # ours on top
        places = [axes.place(line.kept, line.share) for line in _series(lines, label)]
        if not places:  # it could not be asked here
            continue
        pen.line(places, look.colour, look.width, dashed=look.dashed)
        for place in places:
            pen.dot(place, 4.5 if label == OURS else 3.5, look.colour)


def _series(lines: Sequence[Line], label: str) -> list[Line]:
    return sorted((line for line in lines if line.arm.label == label), key=lambda line: line.kept)


def _draw_band(pen: Drawing, axes: _Axes, lines: Sequence[Line]) -> None:
    """Between the intervals' ends."""

    def side(end: int) -> list[Point]:
        return [axes.place(line.kept, min(max(line.interval[end], axes.y[0]), axes.y[1])) for line in lines]

    if len(lines) > 1:
        pen.area([*side(0), *reversed(side(1))], BAND)


def _ticks(extent: tuple[float, float]) -> list[float]:
    """Round shares inside the extent, four to eight of them."""
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if (extent[1] - extent[0]) / step <= 8)
    return [n * step for n in range(math.ceil(extent[0] / step - 1e-9), math.floor(extent[1] / step + 1e-9) + 1)]
