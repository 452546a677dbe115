"""The contact sheet: the sampled frames in rows, each with its time, shaded by what was kept."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from purekv_cli.explain.kept import Kept
from purekv_cli.explain.shade import shade
from purekv_cli.report.units import clock

COLUMNS, MOST = 8, 240  # frames in a row at most; frames shown
_WIDTH, _WIDEST = 1280, 320  # px, of the sheet and of one frame at most
_GAP, _CAPTION, _HEAD = 6, 26, 40
_LETTERS = 18  # px, readable where a page shows the sheet smaller
_PAPER, _INK, _SOFT = (21, 25, 34), (232, 235, 242), (152, 161, 181)


def places(count: int) -> list[int]:
    """The frames that are shown: all, or so many evenly spread."""
    shown = min(MOST, count)
    return [index * count // shown for index in range(shown)]


def corner(place: int, columns: int, size: tuple[int, int]) -> tuple[int, int]:
    """(x, y) of a frame's upper left corner."""
    row, column = divmod(place, columns)
    return _GAP + column * (size[0] + _GAP), _HEAD + row * (size[1] + _CAPTION + _GAP)


def layout(count: int, height: int, width: int) -> tuple[int, tuple[int, int]]:
    """(columns, (width, height) of a frame on the sheet) for frames of that size."""
    columns = -(-count // -(-count // COLUMNS))  # rows of equal length, where that can be
    across = min(_WIDEST, _WIDTH // columns - _GAP)
    return columns, (across, max(1, round(across * height / width)))


def sheet(pixels: NDArray[np.uint8], kept: Kept, layer: int | None = None) -> Image.Image:
    """The picture.

    Args:
        pixels: [F, h, w, 3], the part of the frames that the grid covers.
        layer: shade by this layer's heads alone; None: by all layers and heads.
    """
    shown = places(len(pixels))
    columns, size = layout(len(shown), *pixels.shape[1:3])
    rows = -(-len(shown) // columns)
    right, bottom = corner(columns * rows - 1, columns, size)
    picture = Image.new("RGB", (max(right + size[0] + _GAP, 540), bottom + size[1] + _CAPTION + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_LETTERS)
    _legend(picture, draw, layer)
    shares = kept.patches(layer)
    for place, index in enumerate(shown):
        x, y = corner(place, columns, size)
        frame = Image.fromarray(shade(pixels[index], shares[kept.steps[index]]))
        picture.paste(frame.resize(size, Image.Resampling.BOX), (x, y))
        share = shares[kept.steps[index]].mean()
        draw.text((x, y + size[1] + 3), clock(float(kept.times[index])), fill=_INK, font=font)
        draw.text((x + size[0], y + size[1] + 3), f"{share:.0%}", fill=_SOFT, font=font, anchor="ra")
    return picture


def _legend(picture: Image.Image, draw: ImageDraw.ImageDraw, layer: int | None) -> None:
    font = ImageFont.load_default(_LETTERS)
    draw.text((_GAP, 10), "dropped", fill=_SOFT, font=font)
    scale = np.linspace(0, 1, 120)[None, :]
    ramp = shade(np.full((14, 120, 3), (236, 190, 80), np.uint8), scale)
    picture.paste(Image.fromarray(ramp), (90, 14))
    whose = "all layers and KV heads" if layer is None else f"all KV heads of layer {layer}"
    draw.text((220, 10), f"kept by {whose}", fill=_SOFT, font=font)
