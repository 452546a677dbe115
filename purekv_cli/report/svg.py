"""The pen of bench/pen.py that draws SVG for a page: sharp at any size, in the page's own colours, light and dark."""

from collections.abc import Sequence
from html import escape

from markupsafe import Markup

from purekv_cli.bench.pen import BAND, COLOURS, GRID, INK, PAPER, SOFT, Point, text_width

_DARK = ("#9aa3b2", "#7fa8f0", "#f07f8e", "#58c5b6", "#f0b35e", "#b48fd6", "#7cc085", "#d08f63")
SERIES = tuple(zip(COLOURS, _DARK, strict=True))  # of a line on light and on dark paper
_NAMED = {INK: "var(--ink)", SOFT: "var(--soft)", GRID: "var(--line)", PAPER: "var(--paper)", BAND: "var(--band)"}
_NAMED |= {colour: f"var(--s{at})" for at, colour in enumerate(COLOURS)}
_ANCHORS = {"l": "start", "m": "middle", "r": "end"}
_DROPS = {"a": 0.95, "t": 0.75, "m": 0.35}  # from the named height of a letter to its foot, in letter sizes


class SvgPen:
    """Draws into markup that stands in a page by itself."""

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._parts: list[str] = []

    def markup(self, label: str, skipped: int = 0) -> Markup:
        """The picture.

        Args:
            label: what it shows, for who cannot see it.
            skipped: so much of its top, where a title stands that the page says itself.
        """
        width, height = self._size
        box = f"0 {skipped} {width} {height - skipped}"
        head = f'<svg class="wide drawn" role="img" aria-label="{escape(label)}" viewBox="{box}">'
        return Markup("\n".join([head, *self._parts, "</svg>"]))

    def text(self, at: Point, text: str, points: int, colour: str, anchor: str = "la") -> None:
        foot = at[1] + _DROPS[anchor[1]] * points
        place = f'x="{at[0]:.1f}" y="{foot:.1f}" font-size="{points}" text-anchor="{_ANCHORS[anchor[0]]}"'
        wide = f'textLength="{text_width(text, points):.0f}" lengthAdjust="spacingAndGlyphs"'  # whatever font there is
        self._parts.append(f'<text {place} {wide} style="fill: {_named(colour)}">{escape(text)}</text>')

    def dot(self, at: Point, radius: float, colour: str) -> None:
        style = f"fill: {_named(colour)}; stroke: var(--paper)"
        self._parts.append(f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius:g}" style="{style}"/>')

    def box(self, start: Point, end: Point, colour: str) -> None:
        (left, top), (right, bottom) = start, end
        place = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
        self._parts.append(f'<rect {place} style="fill: {_named(colour)}"/>')

    def area(self, corners: Sequence[Point], colour: str) -> None:
        self._parts.append(f'<polygon points="{_places(corners)}" style="fill: {_named(colour)}"/>')

    def line(self, places: Sequence[Point], colour: str, width: float, dashed: bool = False) -> None:
        style = f"fill: none; stroke: {_named(colour)}; stroke-width: {width:g}"
        style += "; stroke-dasharray: 8 6" if dashed else ""
        self._parts.append(f'<polyline points="{_places(places)}" style="{style}"/>')


def _places(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _named(colour: str) -> str:
    """The page's name for a pen's colour, which a dark page gives another value."""
    return _NAMED.get(colour, colour)
