"""Pixels show what the staging says, and the form for GPUs is the form for files."""

import numpy as np
import pytest
import torch

from purekv_cli.demo.render import atlas, render_batch, render_frames, textures
from purekv_cli.demo.staging import LAMPS, THINGS, Staging, stage
from purekv_cli.demo.world import SHAPES, make_scene

THING_SLOTS = range(LAMPS, LAMPS + THINGS)
RING = SHAPES.index("ring")  # hollow: nothing of its colour at its centre


def covered(staging: Staging, frame: int, slot: int) -> bool:
    """Whether something that is painted later lies over this thing's centre."""
    here = staging.slots[frame, slot, :2]
    above = staging.slots[frame, slot + 1 :]
    near = np.hypot(*(above[:, :2] - here).T) < above[:, 2] / 2 + 3
    return bool((near & (above[:, 7] > 0)).any())


def inside(staging: Staging, frame: int, slot: int, height: int, width: int) -> bool:
    x, y = staging.slots[frame, slot, :2]
    return 2 <= x < width - 2 and 2 <= y < height - 2


@pytest.mark.parametrize("seed", range(6))
def test_a_visible_thing_has_its_colour_at_its_centre(seed: int) -> None:
    height, width = ((224, 224), (168, 280))[seed % 2]
    scene = make_scene(seed, 8, height, width)
    staging = stage(scene)
    frames = render_frames(staging, height, width).numpy().astype(int)
    looked = 0
    for frame in range(len(frames)):
        for slot in THING_SLOTS:
            x, y, _, glyph, *rgb, opacity = staging.slots[frame, slot].tolist()
            hidden = opacity == 0 or glyph == RING or covered(staging, frame, slot)
            if hidden or not inside(staging, frame, slot, height, width):
                continue
            expected = np.array(rgb) * staging.camera[frame, 2]
            off = np.abs(frames[frame, int(y), int(x)] - np.clip(expected, 0, 255))
            assert off.max() <= staging.ground[7] + 1  # the sensor's noise, and rounding
            looked += 1
    assert looked > 15


def test_a_thing_that_is_gone_shows_the_ground() -> None:
    scenes = (make_scene(seed, 16) for seed in range(99))
    scene = next(scene for scene in scenes if any(event.kind == "disappear" for event in scene.events))
    event = next(event for event in scene.events if event.kind == "disappear")
    staging = stage(scene)
    frames = render_frames(staging, scene.height, scene.width).numpy().astype(int)
    frame, slot = 2 * event.start, LAMPS + event.actor
    x, y = staging.slots[frame, slot, :2].astype(int)
    without = staging.slots.copy()
    without[frame, slot] = 0
    bare = Staging(without, staging.camera, staging.ground, *[staging.glyph_labels] * 3)
    assert np.array_equal(frames[frame], render_frames(bare, scene.height, scene.width).numpy()[frame])
    assert (frames[frame - 1, y - 3 : y + 4, x - 3 : x + 4] != frames[frame, y - 3 : y + 4, x - 3 : x + 4]).any()


@pytest.mark.parametrize(("height", "width"), [(224, 224), (168, 252)])
def test_whole_frames_equal_windowed_frames(height: int, width: int) -> None:
    """Training draws every slot at every pixel, files only where a glyph is: the same bytes."""
    staging = stage(make_scene(5, 4, height, width))
    frames = len(staging.slots)
    planes = render_batch(
        torch.from_numpy(staging.slots),
        torch.from_numpy(staging.camera),
        torch.from_numpy(staging.ground).expand(frames, -1),
        torch.arange(height, dtype=torch.int32)[:, None],
        torch.arange(width, dtype=torch.int32)[None],
        atlas(),
        textures(),
    )
    assert torch.equal(torch.stack(planes, -1), render_frames(staging, height, width))


def test_glyphs_differ() -> None:
    """No two shapes or digits look alike: their filled areas overlap by less than nine tenths."""
    filled = (atlas().view(-1, 64 * 64) > 0)[:-1].float()
    common = filled @ filled.T
    union = filled.sum(1)[:, None] + filled.sum(1) - common
    likeness = (common / union).fill_diagonal_(0)
    assert likeness.max() < 0.9
    assert filled.sum(1).min() > 100
