"""What the pictures show: kept patches as they are, dropped ones dim and grey."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from purekv_cli.demo.clips import read_frames
from purekv_cli.explain import chart
from purekv_cli.explain.overlay import write_overlay
from purekv_cli.explain.shade import DIM, seen, shade
from purekv_cli.explain.sheet import MOST, corner, layout, places, sheet
from purekv_cli.explain.timeline import per_second
from purekv_cli.models.geometry import ModelGeometry
from tests.explain.made import made

RED = (200, 40, 40)
GREY = round(DIM * (0.299 * 200 + 0.587 * 40 + 0.114 * 40))


def frames(count: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.full((count, height, width, 3), RED, np.uint8)


def test_a_kept_patch_is_untouched_and_a_dropped_one_dim_and_grey() -> None:
    shaded = shade(frames(1)[0], made().patches()[0])
    assert (shaded[:20, :20] == RED).all()
    assert (shaded[20:] == GREY).all()
    assert (shaded[:20, 20:] == GREY).all()


def test_patches_cover_frames_that_they_do_not_divide() -> None:
    shaded = shade(frames(1, 41, 61)[0], np.eye(3))
    assert [tuple(shaded[y, x]) == RED for y, x in ((0, 0), (40, 60), (20, 30), (0, 60))] == [True, True, True, False]


def test_the_sheet_shows_every_frame_in_its_place() -> None:
    kept = made()
    picture = sheet(frames(4), kept)
    columns, (width, height) = layout(4, 40, 60)
    assert (columns, width, height) == (4, 314, 209)
    for frame in range(4):
        x, y = corner(frame, columns, (width, height))
        first, last = picture.getpixel((x + 20, y + 20)), picture.getpixel((x + width - 20, y + height - 20))
        assert (first, last) == ((RED, (GREY,) * 3) if frame < 2 else (first, first))
        if frame >= 2:  # half of the layers keep all of the second step
            assert first == pytest.approx(tuple(GREY + 0.5**0.5 * (c - GREY) for c in RED), abs=1)


def test_one_layer_alone_is_shown_by_its_own_heads() -> None:
    x, y = corner(2, 4, layout(4, 40, 60)[1])
    assert sheet(frames(4), made(), layer=0).getpixel((x + 9, y + 9)) == (GREY,) * 3
    assert sheet(frames(4), made(), layer=1).getpixel((x + 9, y + 9)) == RED


def test_a_long_clip_is_thinned_evenly() -> None:
    assert places(3) == [0, 1, 2]
    assert len(places(768)) == MOST
    assert places(2 * MOST) == list(range(0, 2 * MOST, 2))


def test_a_model_that_crops_is_shown_what_it_saw() -> None:
    plain = ModelGeometry(2, 2, 1, 8)
    assert seen(frames(2), plain).shape == (2, 40, 60, 3)
    assert seen(frames(2), replace(plain, side=40, cells=4, crop=True)).shape == (2, 40, 40, 3)


def test_the_chart_draws_a_bar_a_second(tmp_path: Path) -> None:
    chart.draw(per_second(made(frames=4, seconds=1)), "all layers", tmp_path / "timeline.png")
    with Image.open(tmp_path / "timeline.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    blue = (abs(pixels - (0x1F, 0x4E, 0x9C)).sum(-1) < 30).sum(0)  # how tall the bars are
    assert blue[100] * 3 == pytest.approx(blue[900], abs=8)  # a sixth, and a half


def test_the_overlay_has_every_frame_shaded(tmp_path: Path) -> None:
    write_overlay(frames(4, 41, 61), made(), tmp_path / "overlay.mp4")
    shown, seconds = read_frames(tmp_path / "overlay.mp4")
    assert shown.shape == (4, 40, 60, 3)
    assert seconds == pytest.approx(0.5)
    assert shown[0, :15, :15].mean() > 2 * shown[0, 25:].mean()
