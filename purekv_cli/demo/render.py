"""Pixels from a staging: one plain torch renderer for CPU (mp4 files) and GPU (training).

Glyphs come from a small atlas of signed distances, so one gather per pixel and slot gives an anti-aliased edge at any
size. :func:`paint_slot` does the work for a whole batch of full frames (compiled, all slots unrolled) as well as for
the little window of one frame that a glyph touches (CPU): the arithmetic is the same code, so there is no second
renderer to keep equal. Planes are uint8, as a video file would hold them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch

from purekv_cli.demo.staging import GLYPHS, SLOTS, TEXTURE_SIDE, TEXTURES, Staging

ATLAS_SIDE = 64
Planes = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _polygon(points: list[tuple[float, float]], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Signed distance to a polygon, positive inside."""
    nearest = torch.full_like(x, 1e9)
    inside = torch.zeros_like(x, dtype=torch.bool)
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        nearest = torch.minimum(nearest, _segment(x0, y0, x1, y1, x, y))
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < (x1 - x0) * (y - y0) / ((y1 - y0) or 1.0) + x0)
    return torch.where(inside, nearest, -nearest)


def _segment(x0: float, y0: float, x1: float, y1: float, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    dx, dy = x1 - x0, y1 - y0
    along = (((x - x0) * dx + (y - y0) * dy) / max(dx * dx + dy * dy, 1e-12)).clamp(0, 1)
    return torch.hypot(x - x0 - along * dx, y - y0 - along * dy)


def _star(points: int, outer: float, inner: float) -> list[tuple[float, float]]:
    radii = (outer, inner)
    return [
        (radii[k % 2] * math.sin(math.pi * k / points), -radii[k % 2] * math.cos(math.pi * k / points))
        for k in range(2 * points)
    ]


#: the seven segments a..g as line ends in a box of width 0.5 and height 0.84, and which of them a digit lights
_SEGMENTS = {
    "a": (-0.2, -0.4, 0.2, -0.4), "b": (0.2, -0.4, 0.2, 0.0), "c": (0.2, 0.0, 0.2, 0.4), "d": (-0.2, 0.4, 0.2, 0.4),
    "e": (-0.2, 0.0, -0.2, 0.4), "f": (-0.2, -0.4, -0.2, 0.0), "g": (-0.2, 0.0, 0.2, 0.0),
}  # fmt: skip
_DIGITS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")


@functools.cache
def atlas() -> torch.Tensor:
    """Signed distances in units of the glyph's diameter, float32 [GLYPHS * 64 * 64], flat."""
    axis = (torch.arange(ATLAS_SIDE) + 0.5) / ATLAS_SIDE - 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    radius = torch.hypot(x, y)
    turns = [2 * math.pi * k / 48 for k in range(48)]
    heart = [(0.027 * 16 * math.sin(t) ** 3, -0.027 * _heart_height(t)) for t in turns]
    shapes = {
        "circle": 0.45 - radius,
        "square": 0.39 - torch.maximum(x.abs(), y.abs()),
        "triangle": _polygon([(0.0, -0.45), (0.46, 0.4), (-0.46, 0.4)], x, y),
        "star": _polygon(_star(5, 0.48, 0.19), x, y),
        "cross": torch.maximum(
            torch.minimum(0.14 - x.abs(), 0.45 - y.abs()), torch.minimum(0.45 - x.abs(), 0.14 - y.abs())
        ),
        "heart": _polygon(heart, x, y),
        "diamond": _polygon([(0.0, -0.47), (0.33, 0.0), (0.0, 0.47), (-0.33, 0.0)], x, y),
        "ring": 0.11 - (radius - 0.34).abs(),
        "lamp": 0.45 - radius,
    }
    for digit, lit in enumerate(_DIGITS):
        strokes = [_segment(*_SEGMENTS[name], x, y) for name in lit]
        shapes[str(digit)] = 0.062 - torch.stack(strokes).amin(0)
    return torch.stack([shapes[name] for name in GLYPHS]).flatten().contiguous()


def _heart_height(t: float) -> float:
    return 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) + 2


@functools.cache
def textures() -> torch.Tensor:
    """Tileable grey patterns in 0..1 and, last, white noise in -1..1: float32 [(TEXTURES + 1) * 256 * 256], flat."""
    generator = torch.Generator().manual_seed(5)
    axis = torch.arange(TEXTURE_SIDE)
    y, x = torch.meshgrid(axis, axis, indexing="ij")

    def blotches(cells: int) -> torch.Tensor:
        coarse = torch.rand(1, 1, cells, cells, generator=generator)
        coarse = torch.nn.functional.pad(coarse, (2, 2, 2, 2), mode="circular")
        side = TEXTURE_SIDE * (cells + 4) // cells
        fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)[0, 0]
        edge = (side - TEXTURE_SIDE) // 2
        return fine[edge : edge + TEXTURE_SIDE, edge : edge + TEXTURE_SIDE].clamp(0, 1)

    def wave(cycles_x: int, cycles_y: int) -> torch.Tensor:
        return 0.5 + 0.5 * torch.sin(2 * math.pi * (cycles_x * x + cycles_y * y) / TEXTURE_SIDE)

    brick_row = y // 16
    brick = ((y % 16 < 2) | ((x + 16 * (brick_row % 2)) % 32 < 2)).float()
    patterns = [
        wave(0, 1),
        blotches(8),
        blotches(16),
        wave(8, 4),
        (((x // 16) + (y // 16)) % 2).float(),
        blotches(64),
        1 - brick,
        0.5 * blotches(4) + 0.5 * blotches(32),
    ]
    assert len(patterns) == TEXTURES
    grain = torch.rand(TEXTURE_SIDE, TEXTURE_SIDE, generator=generator) * 2 - 1
    return torch.stack([*patterns, grain]).flatten().contiguous()


def paint_ground(
    ground: torch.Tensor, camera: torch.Tensor, y: torch.Tensor, x: torch.Tensor, bank: torch.Tensor
) -> Planes:
    """Background planes in grey levels (float), before noise. ground [F, 8], camera [F, 5], y [H, 1], x [1, W]."""

    def of(values: torch.Tensor, column: int) -> torch.Tensor:
        return values[:, column, None, None]

    row = (y + of(camera, 1).to(torch.int32)) % TEXTURE_SIDE
    column = (x + of(camera, 0).to(torch.int32)) % TEXTURE_SIDE
    value = bank[(of(ground, 0).to(torch.int32) * TEXTURE_SIDE + row) * TEXTURE_SIDE + column]
    red, green, blue = (of(ground, 1 + c) + (of(ground, 4 + c) - of(ground, 1 + c)) * value for c in range(3))
    return red, green, blue


def paint_slot(planes: Planes, slot: torch.Tensor, y: torch.Tensor, x: torch.Tensor, glyphs: torch.Tensor) -> Planes:
    """Lay one slot's glyph over the planes. slot [F, 8]; planes [F, h, w] at the pixels y [h, 1], x [1, w]."""
    centre_x, centre_y, size, glyph, *colour, opacity = (slot[:, k, None, None] for k in range(8))
    u = ((x + 0.5 - centre_x) / size.clamp(min=1) + 0.5) * ATLAS_SIDE
    v = ((y + 0.5 - centre_y) / size.clamp(min=1) + 0.5) * ATLAS_SIDE
    inside = (u >= 0) & (u < ATLAS_SIDE) & (v >= 0) & (v < ATLAS_SIDE)
    column = u.clamp(0, ATLAS_SIDE - 1).to(torch.int32)
    row = v.clamp(0, ATLAS_SIDE - 1).to(torch.int32)
    distance = glyphs[(glyph.to(torch.int32) * ATLAS_SIDE + row) * ATLAS_SIDE + column]
    cover = (distance * size + 0.5).clamp(0, 1) * opacity * inside
    red, green, blue = (plane + (level - plane) * cover for plane, level in zip(planes, colour, strict=True))
    return red, green, blue


def finish(
    planes: Planes, ground: torch.Tensor, camera: torch.Tensor, y: torch.Tensor, x: torch.Tensor, bank: torch.Tensor
) -> Planes:
    """Brightness factor, sensor noise, rounding to uint8."""
    row = (y + camera[:, 4, None, None].to(torch.int32)) % TEXTURE_SIDE
    column = (x + camera[:, 3, None, None].to(torch.int32)) % TEXTURE_SIDE
    noise = bank[(TEXTURES * TEXTURE_SIDE + row) * TEXTURE_SIDE + column] * ground[:, 7, None, None]
    red, green, blue = (
        (plane * camera[:, 2, None, None] + noise + 0.5).clamp(0, 255).to(torch.uint8) for plane in planes
    )
    return red, green, blue


def render_batch(
    slots: torch.Tensor,
    camera: torch.Tensor,
    ground: torch.Tensor,
    y: torch.Tensor,
    x: torch.Tensor,
    glyphs: torch.Tensor,
    bank: torch.Tensor,
) -> Planes:
    """Whole frames at once, every slot at every pixel: the form that a compiler fuses into one GPU kernel.

    slots [F, SLOTS, 8], camera [F, 5], ground [F, 8], y [H, 1] and x [1, W] int32 -> three uint8 planes [F, H, W].
    """
    planes = paint_ground(ground, camera, y, x, bank)
    for k in range(SLOTS):
        planes = paint_slot(planes, slots[:, k], y, x, glyphs)
    return finish(planes, ground, camera, y, x, bank)


def render_frames(
    staging: Staging, height: int, width: int, backdrop: Callable[[int], Planes] | None = None
) -> torch.Tensor:
    """A clip on the CPU, each glyph only where it is: uint8 [F, H, W, 3].

    `backdrop` gives every frame's background planes, float32 [1, H, W], in place of the staging's own.
    """
    slots, camera = torch.from_numpy(staging.slots), torch.from_numpy(staging.camera)
    glyphs, bank = atlas(), textures()
    y = torch.arange(height, dtype=torch.int32)[:, None]
    x = torch.arange(width, dtype=torch.int32)[None]
    frames = torch.empty(len(slots), height, width, 3, dtype=torch.uint8)
    ground = torch.from_numpy(staging.ground)[None]
    for f in range(len(slots)):
        planes = paint_ground(ground, camera[f : f + 1], y, x, bank) if backdrop is None else backdrop(f)
        for k in range(SLOTS):
            centre_x, centre_y, size, opacity = staging.slots[f, k, [0, 1, 2, 7]].tolist()
            if opacity == 0:
                continue
            rows = slice(max(0, int(centre_y - size / 2) - 1), max(0, int(centre_y + size / 2) + 2))
            columns = slice(max(0, int(centre_x - size / 2) - 1), max(0, int(centre_x + size / 2) + 2))
            red, green, blue = planes
            window = (red[:, rows, columns], green[:, rows, columns], blue[:, rows, columns])
            painted = paint_slot(window, slots[f : f + 1, k], y[rows], x[:, columns], glyphs)
            for plane, part in zip(planes, painted, strict=True):
                plane[:, rows, columns] = part
        frames[f] = torch.stack(finish(planes, ground, camera[f : f + 1], y, x, bank), -1)[0]
    return frames
