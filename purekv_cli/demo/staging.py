"""Where every glyph stands in every frame of a scene, and how the camera and the background behave.

This is the step between the program of events (world.py) and pixels (render.py): small arrays, made in well under a
millisecond, so that training can stage clips in worker processes and draw them on the GPU. The disturbances live here:
a trembling and swaying camera, a drifting textured background, sensor noise, flicker of the whole picture, and small
grey lamps that flicker on their own. All of them change many pixels in every frame, so the plain difference of two
frames does not tell where something happens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from purekv_cli.demo.world import COLOURS, EVENT_KINDS, SHAPES, STEPS, Event, Scene

GLYPHS = (*SHAPES, *"0123456789", "lamp")
LAMPS, THINGS, DIGITS = 3, 5, 2
SLOTS = LAMPS + THINGS + DIGITS  # in painting order: what comes later hides what came before
RGB: dict[str, tuple[int, int, int]] = {
    "red": (228, 40, 40),
    "green": (40, 178, 62),
    "blue": (54, 92, 240),
    "yellow": (242, 222, 44),
    "purple": (160, 60, 205),
    "orange": (248, 140, 24),
    "white": (245, 245, 245),
    "cyan": (40, 215, 225),
}
TEXTURES, TEXTURE_SIDE = 8, 256
#: what a patch's event label distinguishes: the kinds, with moves by direction
EVENT_LABELS = ("none", *(kind for kind in EVENT_KINDS if kind != "move"), *(f"move {step}" for step in STEPS))
NO_EVENT = len(EVENT_LABELS)  # the label of the event before the first one
STORY = 5  # labels of an event: its own, its number from 1, and the label, colour and glyph of the event before it


@dataclass(frozen=True)
class Staging:
    """A scene, frame by frame. F = 2 x patches frames, T patches."""

    slots: np.ndarray  # float32 [F, SLOTS, 8]: centre x, centre y, diameter (pixels), glyph, red, green, blue, opacity
    camera: np.ndarray  # float32 [F, 5]: background shift x, y (pixels), brightness factor, noise shift x, y
    ground: np.ndarray  # float32 [8]: texture, dark colour (3), light colour (3), noise amplitude (grey levels)
    glyph_labels: np.ndarray  # int64 [T, SLOTS]: 0 = nothing to see, else 1 + glyph (lamps count as nothing)
    colour_labels: np.ndarray  # int64 [T, SLOTS]: 0 = nothing to see, else 1 + colour
    story_labels: np.ndarray  # int64 [T, SLOTS, STORY]: all 0 where nothing happens


def stage(scene: Scene) -> Staging:
    """Lay the scene out; a pure function of the scene."""
    rng = np.random.default_rng([scene.seed, 77])
    frames = 2 * scene.patches
    slots = np.zeros((frames, SLOTS, 8), np.float32)
    colours = np.full((frames, SLOTS), -1, np.int64)
    story_labels = np.zeros((scene.patches, SLOTS, STORY), np.int64)
    tints = rng.uniform(-12, 12, (SLOTS, 3))

    anchors: list[np.ndarray] = [np.zeros(2)] * len(scene.things)
    for i, thing in enumerate(scene.things):
        slot = LAMPS + i
        slots[:, slot, 2] = thing.size
        slots[:, slot, 3] = SHAPES.index(thing.shape)
        colours[:, slot] = COLOURS.index(thing.colour)
        if thing.site is not None:
            anchors[i] = _anchor(thing.site, thing.size, scene, rng)
            slots[:, slot, :2] = anchors[i]
            slots[:, slot, 7] = 1
    for number, event in enumerate(scene.events, 1):
        before = scene.events[number - 2] if number > 1 else None
        where = _play(event, scene, slots, colours, anchors, rng)
        story_labels[event.start : event.start + event.length, where] = _label(event), number, *_told(before)
    _paint(slots, colours, tints)
    colour_labels = _visible_labels(slots, colours + 1)
    glyph_labels = _visible_labels(slots, slots[:, :, 3].astype(np.int64) + 1)
    _place_lamps(scene, slots, rng)
    camera = _move_camera(scene, slots, rng)
    return Staging(slots, camera, _draw_ground(scene, rng), glyph_labels, colour_labels, story_labels)


def _anchor(site: int, size: float, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Where a thing of this size rests at a site: near the site's middle, wholly inside the picture."""
    extent = np.array([scene.width, scene.height], float)
    middle = (np.array([site % 3, site // 3]) + 0.5) / 3 + rng.uniform(-0.035, 0.035, 2)
    return np.clip(middle * extent, size / 2 + 2, extent - size / 2 - 2)


def _label(event: Event) -> int:
    return EVENT_LABELS.index(f"move {event.direction}" if event.kind == "move" else event.kind)


def _told(event: Event | None) -> tuple[int, int, int]:
    """Label, colour (1 + index) and glyph (1 + index; a number counts as its first digit's) of an event."""
    if event is None:
        return NO_EVENT, 0, 0
    if event.kind == "number":
        return _label(event), 1 + COLOURS.index(event.number_colour), 1 + len(SHAPES) + event.number // 10
    colour, shape = event.name
    return _label(event), 1 + COLOURS.index(colour), 1 + SHAPES.index(shape)


def _play(
    event: Event,
    scene: Scene,
    slots: np.ndarray,
    colours: np.ndarray,
    anchors: list[np.ndarray],
    rng: np.random.Generator,
) -> slice:
    """Write one event's frames, and its outcome into all frames after it; returns the slots in which it shows."""
    first, after = 2 * event.start, 2 * (event.start + event.length)
    slot = LAMPS + event.actor if event.actor >= 0 else LAMPS + THINGS
    if event.kind == "number":
        height = rng.uniform(28, 40) - 8 * scene.hardness * rng.random()
        middle = _anchor(event.site, 1.1 * height, scene, rng)
        for place, digit in enumerate(divmod(event.number, 10)):
            cells = slots[first:after, slot + place]
            cells[:, 0] = middle[0] + (place - 0.5) * 0.62 * height
            cells[:, 1] = middle[1]
            cells[:, 2] = height
            cells[:, 3] = len(SHAPES) + digit
            cells[:, 7] = 1
            colours[first:after, slot + place] = COLOURS.index(event.number_colour)
        return slice(slot, slot + DIGITS)
    actor = event.actor
    size = scene.things[actor].size
    if event.kind == "appear":
        anchors[actor] = _anchor(event.site, size, scene, rng)
        slots[first:, slot, :2] = anchors[actor]
        slots[first:, slot, 7] = 1
    elif event.kind == "disappear":
        slots[first:, slot, 7] = 0
    elif event.kind == "recolour":
        colours[first:, slot] = COLOURS.index(event.to_colour)
    elif event.kind == "blink":
        for k in range(event.times):  # one patch off, one patch on
            slots[first + 4 * k : first + 4 * k + 2, slot, 7] = 0
    elif event.kind == "move":
        goal = _anchor(event.site, size, scene, rng)
        progress = np.arange(1, after - first + 1)[:, None] / (after - first)
        slots[first:after, slot, :2] = anchors[actor] + progress * (goal - anchors[actor])
        slots[after:, slot, :2] = goal
        anchors[actor] = goal
    else:  # bump: there and back
        way = anchors[event.other] - anchors[actor]
        distance = math.hypot(*way)
        reach = max(0.0, distance - 0.45 * (size + scene.things[event.other].size)) / max(distance, 1e-6)
        half = (after - first) // 2
        progress = np.concatenate([np.arange(1, half + 1), np.arange(half - 1, -1, -1)])[:, None] / half
        slots[first:after, slot, :2] = anchors[actor] + progress * reach * way
    return slice(slot, slot + 1)


def _paint(slots: np.ndarray, colours: np.ndarray, tints: np.ndarray) -> None:
    palette = np.array([RGB[colour] for colour in COLOURS], np.float32)
    slots[:, :, 4:7] = np.clip(palette[np.maximum(colours, 0)] + tints, 0, 255)


def _visible_labels(slots: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The label of each patch's second frame where the thing can be seen, else 0."""
    return np.where(slots[1::2, :, 7] > 0.5, labels[1::2], 0)


def _place_lamps(scene: Scene, slots: np.ndarray, rng: np.random.Generator) -> None:
    frames = len(slots)
    for slot in range(int(rng.integers(0, LAMPS + 1)) if scene.hardness > 0 else 0):
        slots[:, slot, 0] = rng.uniform(6, scene.width - 6)
        slots[:, slot, 1] = rng.uniform(6, scene.height - 6)
        slots[:, slot, 2] = rng.uniform(8, 15)
        slots[:, slot, 3] = GLYPHS.index("lamp")
        slots[:, slot, 4:7] = rng.uniform(20, 60 + 140 * scene.hardness, (frames, 1))
        slots[:, slot, 7] = 1


def _move_camera(scene: Scene, slots: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tremble and sway shift everything; drift shifts the background alone, as when a camera follows the things."""
    frames, hardness = len(slots), scene.hardness
    time = np.arange(frames)
    tremble = rng.uniform(-1, 1, (frames, 2)) * rng.uniform(0, 3) * hardness * (rng.random() < 0.6)
    phase, period = rng.uniform(0, 2 * math.pi, 2), rng.uniform(12, 80)
    sway = np.sin(2 * math.pi * time[:, None] / period + phase) * rng.uniform(0, 6, 2) * hardness
    sway *= rng.random() < 0.6
    drift = time[:, None] * rng.uniform(-3, 3, 2) * hardness * (rng.random() < 0.5)
    slots[:, :, :2] += (tremble + sway)[:, None]
    camera = np.empty((frames, 5), np.float32)
    camera[:, :2] = np.round(rng.uniform(0, TEXTURE_SIDE, 2) - tremble - sway - drift)
    camera[:, 2] = 1 + rng.uniform(-0.06, 0.06, frames) * hardness * (rng.random() < 0.5)
    camera[:, 3:] = rng.integers(0, TEXTURE_SIDE, (frames, 2))
    return camera


def _draw_ground(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Muted colours, darker than any thing: the world is about what happens, not about camouflage."""
    dark = rng.uniform(12, 60) + rng.uniform(-12, 12, 3)
    light = dark + rng.uniform(8, 20 + 45 * scene.hardness) + rng.uniform(-10, 10, 3)
    ground = np.empty(8, np.float32)
    ground[0] = rng.integers(0, TEXTURES)
    ground[1:4], ground[4:7] = np.clip(dark, 0, 255), np.clip(light, 0, 255)
    ground[7] = rng.uniform(0, 14) * scene.hardness
    return ground
