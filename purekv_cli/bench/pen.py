"""What pictures are drawn with, in unscaled pixels: a pen on a Pillow image, or report/svg.py's for a page.

On the image everything is drawn at twice the size, for scaling down smooths lines.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol, TypeVar

from PIL import Image, ImageDraw, ImageFont

SCALE = 2
INK, SOFT, GRID, PAPER = "#1d2129", "#5c6370", "#e4e7ec", "#ffffff"
COLOURS = ("#6b7280", "#1f4e9c", "#d1495b", "#2a9d8f", "#e58f1b", "#7b4ba3", "#3a7d44", "#a0522d")
BAND = "#f6dadd"  # around a line of the third colour

Point = tuple[float, float]


class Drawing(Protocol):
    """A picture in the making, of that many pixels."""

    def __init__(self, width: int, height: int) -> None: ...

    def text(self, at: Point, text: str, points: int, colour: str, anchor: str = "la") -> None:
        """`anchor` as Pillow has it: l, m, r across; a, m, t down."""

    def dot(self, at: Point, radius: float, colour: str) -> None: ...

    def box(self, start: Point, end: Point, colour: str) -> None: ...

    def area(self, corners: Sequence[Point], colour: str) -> None: ...

    def line(self, places: Sequence[Point], colour: str, width: float, dashed: bool = False) -> None: ...


Kind = TypeVar("Kind", bound=Drawing)


def text_width(text: str, points: int) -> float:
    """How wide that text is."""
    return float(ImageFont.load_default(points * SCALE).getlength(text)) / SCALE


class Pen:
    """Draws on a picture of that many pixels."""

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def save(self, path: Path) -> None:
        self._image.resize(self._size, Image.Resampling.LANCZOS).save(path)

    def text(self, at: Point, text: str, points: int, colour: str, anchor: str = "la") -> None:
        font = ImageFont.load_default(points * SCALE)
        self._draw.text(_scaled(at), text, fill=colour, font=font, anchor=anchor)

    def dot(self, at: Point, radius: float, colour: str) -> None:
        (x, y), r = _scaled(at), radius * SCALE
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour, outline=PAPER, width=SCALE)

    def box(self, start: Point, end: Point, colour: str) -> None:
        self._draw.rectangle((*_scaled(start), *_scaled(end)), fill=colour)

    def area(self, corners: Sequence[Point], colour: str) -> None:
        self._draw.polygon([_scaled(corner) for corner in corners], fill=colour)

    def line(self, places: Sequence[Point], colour: str, width: float, dashed: bool = False) -> None:
        thick = max(1, round(width * SCALE))
        if not dashed:
            self._draw.line([_scaled(place) for place in places], fill=colour, width=thick, joint="curve")
            return
        for start, end in pairwise(places):
            length = math.dist(start, end)
            count = max(1, round(length / 14))
            for dash in range(count):
                ends = (dash / count, (dash + 0.58) / count)
                piece = [(start[0] + (end[0] - start[0]) * t, start[1] + (end[1] - start[1]) * t) for t in ends]
                self._draw.line([_scaled(place) for place in piece], fill=colour, width=thick)


def _scaled(at: Point) -> Point:
    return (at[0] * SCALE, at[1] * SCALE)
