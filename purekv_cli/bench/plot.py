"""A picture of the result: prefill time and peak KV memory over prompt length on logarithmic axes; bars for one length.

Drawn with Pillow: a plotting library is not worth a dependency.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from purekv_cli.bench.pen import COLOURS, GRID, INK, SOFT, Drawing, Kind, Pen, Point
from purekv_cli.bench.result import Result, Row
from purekv_cli.report.units import size, span

HEADER = 74  # px of title
_WIDTH, _PANEL_HEIGHT, _LEGEND_LINE = 1360, 520, 26
_LEFT, _RIGHT, _TOP, _BOTTOM = 92, 34, 44, 58  # margins of a panel around its axes
_VALUE_ROOM = 90  # beside the longest bar


@dataclass(frozen=True, slots=True)
class Series:
    """One line: tokens and a value, in the colour and mark of its row in the legend."""

    name: str
    colour: str
    dashed: bool
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class _Panel:
    """One pair of axes, in pixels before scaling."""

    title: str
    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]  # extent in tokens
    y: tuple[float, float]
    unit: Callable[[float], str]

    def place(self, point: Point) -> Point:
        across = _part(point[0], self.x) * self.width
        return (self.left + across, self.top + self.height - _part(point[1], self.y) * self.height)


def draw(result: Result, path: Path) -> bool:
    """Write the picture; False when nothing was measured."""
    if pen := drawn(result, Pen):
        pen.save(path)
    return pen is not None


def drawn(result: Result, kind: type[Kind]) -> Kind | None:
    """The picture; None when nothing was measured."""
    prefill = _series(result, lambda row: row.prefill.mean)
    memory = _series(result, lambda row: float(row.costs.kv_peak) if row.costs else 0.0)
    if not prefill:
        return None
    legend = -(-len(prefill) // 2)
    height = HEADER + _PANEL_HEIGHT + legend * _LEGEND_LINE + 30
    pen = kind(_WIDTH, height)
    pen.text((_LEFT - 50, 18), f"purekv bench: {result.facts.get('model', '')}", 21, INK)
    where = f"{result.facts.get('device', '')}, {result.facts.get('dtype', '')}"
    pen.text((_LEFT - 50, 46), where, 14, SOFT)
    half = _WIDTH / 2
    for at, (title, lines, unit) in enumerate(
        (("Prefill of the language model", prefill, span), ("Most KV bytes alive during prefill", memory, size))
    ):
        panel = _panel(title, lines, unit, at * half)
        if len({point[0] for line in lines for point in line.points}) == 1:
            _draw_bars(pen, panel, lines)
        else:
            _draw_lines(pen, panel, lines)
    for at, line in enumerate(prefill):
        _draw_key(pen, line, (_LEFT - 50 + at % 2 * half, HEADER + _PANEL_HEIGHT + at // 2 * _LEGEND_LINE + 12))
    return pen


def _series(result: Result, value: Callable[[Row], float]) -> list[Series]:
    """One line a kind of row that was measured anywhere; nothing of what a red gate covers."""
    names = list(dict.fromkeys(row.arm.name for row in result.rows))
    lines = []
    for at, name in enumerate(names):
        rows = [r for r in result.rows if r.arm.name == name and r.measured and not result.red(r.arm.kind)]
        points = tuple(sorted((float(row.tokens), value(row)) for row in rows))
        if points:
            dashed = rows[0].arm.kind in ("stock", "dense")
            lines.append(Series(name, COLOURS[at % len(COLOURS)], dashed, points))
    return lines


def _panel(title: str, lines: Sequence[Series], unit: Callable[[float], str], offset: float) -> _Panel:
    xs, ys = ([point[axis] for line in lines for point in line.points] for axis in (0, 1))
    return _Panel(
        title=title,
        left=offset + _LEFT,
        top=HEADER + _TOP,
        width=_WIDTH / 2 - _LEFT - _RIGHT,
        height=_PANEL_HEIGHT - _TOP - _BOTTOM,
        x=(min(xs) / 1.15, max(xs) * 1.15),
        y=(min(ys) / 1.35, max(ys) * 1.35),
        unit=unit,
    )


def _draw_lines(pen: Drawing, panel: _Panel, lines: Sequence[Series]) -> None:
    right, bottom = panel.left + panel.width, panel.top + panel.height
    pen.text((panel.left, panel.top - 30), panel.title, 16, INK)
    for value in ticks(panel.y, binary=panel.unit is size):
        y = panel.place((panel.x[0], value))[1]
        pen.line([(panel.left, y), (right, y)], GRID, 1)
        pen.text((panel.left - 10, y), panel.unit(value), 13, SOFT, anchor="rm")
    for tokens in sorted({point[0] for line in lines for point in line.points}):
        x = panel.place((tokens, panel.y[0]))[0]
        pen.line([(x, panel.top), (x, bottom)], GRID, 1)
        pen.text((x, bottom + 10), f"{tokens:,.0f}", 13, SOFT, anchor="mt")
    pen.line([(panel.left, bottom), (right, bottom)], SOFT, 1.4)
    pen.text(((panel.left + right) / 2, bottom + 32), "prompt tokens", 13, SOFT, anchor="mt")
    for line in lines:
        places = [panel.place(point) for point in line.points]
        pen.line(places, line.colour, 3.4 if line.dashed else 2.6, dashed=line.dashed)
        for place in places:
            pen.dot(place, 4.5, line.colour)


def _draw_bars(pen: Drawing, panel: _Panel, lines: Sequence[Series]) -> None:
    """Of one length: bars from zero, the value at the end of each."""
    pen.text((panel.left, panel.top - 30), f"{panel.title}, {lines[0].points[0][0]:,.0f} tokens", 16, INK)
    pen.line([(panel.left, panel.top), (panel.left, panel.top + panel.height)], SOFT, 1.4)
    step = panel.height / len(lines)
    most = max(line.points[0][1] for line in lines)
    for at, line in enumerate(lines):
        value = line.points[0][1]
        end = panel.left + (panel.width - _VALUE_ROOM) * value / most
        top = panel.top + (at + 0.5) * step - min(0.32 * step, 26)
        bottom = panel.top + (at + 0.5) * step + min(0.32 * step, 26)
        pen.box((panel.left + 1, top), (end, bottom), line.colour)
        pen.text((end + 10, (top + bottom) / 2), panel.unit(value), 14, INK, anchor="lm")


def _draw_key(pen: Drawing, line: Series, at: Point) -> None:
    pen.line([at, (at[0] + 40, at[1])], line.colour, 2.6, dashed=line.dashed)
    pen.dot((at[0] + 20, at[1]), 4.5, line.colour)
    pen.text((at[0] + 52, at[1]), line.name, 14, INK, anchor="lm")


def ticks(extent: tuple[float, float], binary: bool) -> list[float]:
    """Round values inside the extent: powers of two of bytes, 1-2-5 of other things, at most about eight."""
    if binary:
        low, high = (math.log2(value) for value in extent)
        step = max(1, math.ceil((high - low) / 8))
        return [2.0**power for power in range(math.ceil(low), math.floor(high) + 1) if power % step == 0]
    low, high = (math.log10(value) for value in extent)
    digits = (1, 2, 5) if high - low < 2.7 else (1,)
    decades = range(math.floor(low), math.floor(high) + 1)
    values = [digit * 10.0**decade for decade in decades for digit in digits]
    return [value for value in values if extent[0] <= value <= extent[1]]


def _part(value: float, extent: tuple[float, float]) -> float:
    return math.log(value / extent[0]) / math.log(extent[1] / extent[0])
