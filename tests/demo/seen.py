"""A patient viewer: what happens in a staged clip, told from positions, colours and opacities alone.

Nothing here looks at the program of events. A viewer knows the camera's shake (a slot that is never placed shows it),
sees when a thing comes, goes, changes its colour, moves or returns, and writes down what that was. Tests hold the
world's programs and its answers to these notes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from purekv_cli.demo.staging import DIGITS, LAMPS, RGB, SLOTS, THINGS, Staging

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "diamond", "ring")
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
THING_SLOTS = range(LAMPS, LAMPS + THINGS)
DIGIT_SLOTS = range(LAMPS + THINGS, LAMPS + THINGS + DIGITS)
Centres = NDArray[np.float64]


@dataclass(frozen=True)
class Happening:
    """One thing that was seen to happen. Names are "colour shape", as the thing looked just before."""

    kind: str
    first: int  # frame
    last: int  # frame
    name: str = ""
    direction: str = ""
    colour: str = ""  # that it turned to, or of a number
    times: int = 0
    other: str = ""
    number: int = -1
    place: str = ""  # of a number


@dataclass(frozen=True)
class Notes:
    """Everything a viewer can say about a clip of F frames."""

    frames: int
    happenings: tuple[Happening, ...]
    at_start: dict[str, str]  # name: place
    at_end: dict[str, str]
    names: frozenset[str]  # of all things that were ever in the picture


def colour_names(rgb: NDArray[np.float32]) -> list[str]:
    """The nearest colour of the world for each of [N, 3]."""
    palette = np.array(list(RGB.values()))
    nearest = np.abs(rgb[:, None] - palette).sum(-1).argmin(1)
    return [tuple(RGB)[index] for index in nearest]


def shake(staging: Staging) -> Centres:
    """How far the camera shifts everything, [F, 2] pixels: lamps stand still, unused slots start at the corner."""
    lamp = staging.slots[:, 0, :2].astype(float)
    return lamp - lamp[0] + staging.slots[0, SLOTS - 1, :2]


def watch(staging: Staging, height: int, width: int) -> Notes:
    """Take notes of the whole clip."""
    frames = len(staging.slots)
    still = staging.slots[:, :, :2] - shake(staging)[:, None]
    visible = staging.slots[:, :, 7] > 0.5
    used = [slot for slot in THING_SLOTS if visible[:, slot].any()]
    names = {slot: _names(staging, slot) for slot in used}
    happenings: list[Happening] = []
    for slot in used:
        happenings += _comings_and_goings(visible[:, slot], names[slot])
        happenings += _changes(visible[:, slot], names[slot])
        happenings += _motions(slot, still, visible, names)
    happenings += _numbers(staging, still, visible, height, width)

    def places(frame: int) -> dict[str, str]:
        return {
            names[slot][frame]: place_name(still[frame, slot], height, width) for slot in used if visible[frame, slot]
        }

    ever = {names[slot][frame] for slot in used for frame in range(frames) if visible[frame, slot]}
    happenings.sort(key=lambda happening: happening.first)
    return Notes(frames, tuple(happenings), places(0), places(-1), frozenset(ever))


def place_name(centre: Centres, height: int, width: int) -> str:
    column, row = (min(2, max(0, int(3 * c / extent))) for c, extent in zip(centre, (width, height), strict=True))
    return PLACES[3 * row + column]


def _names(staging: Staging, slot: int) -> list[str]:
    """What the thing in this slot looks like in every frame."""
    shapes = (SHAPES[int(glyph)] for glyph in staging.slots[:, slot, 3])
    colours = colour_names(staging.slots[:, slot, 4:7])
    return [f"{colour} {shape}" for colour, shape in zip(colours, shapes, strict=True)]


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Stretches of true flags: first frame and the frame after the last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return [(int(first), int(after)) for first, after in zip(edges[::2], edges[1::2], strict=True)]


def _comings_and_goings(visible: NDArray[np.bool_], name: list[str]) -> Iterator[Happening]:
    """Appearances, disappearances and blinks: a blink is two dark frames, blinks of one event two light ones apart."""
    blink: Happening | None = None
    for first, after in _runs(~visible):
        short = first > 0 and after < len(visible) and after - first == 2
        if short and blink is not None and first - blink.last == 3:
            blink = replace(blink, last=after - 1, times=blink.times + 1)
            continue
        if blink is not None:
            yield blink
        blink = Happening("blink", first, after - 1, name[first - 1], times=1) if short else None
        if not short and first > 0:
            yield Happening("disappear", first, first + 1, name[first - 1])
        if not short and after < len(visible):
            yield Happening("appear", after, after + 1, name[after])
    if blink is not None:
        yield blink


def _changes(visible: NDArray[np.bool_], name: list[str]) -> Iterator[Happening]:
    for frame in range(1, len(name)):
        if visible[frame] and name[frame] != name[frame - 1]:
            yield Happening("recolour", frame, frame + 1, name[frame - 1], colour=name[frame].split()[0])


def _motions(slot: int, still: Centres, visible: NDArray[np.bool_], names: dict[int, list[str]]) -> Iterator[Happening]:
    """Moves, and bumps: motions that come back to where they began."""
    stepping = np.zeros(len(still), bool)
    stepping[1:] = (np.abs(np.diff(still[:, slot], axis=0)).max(1) > 0.05) & visible[1:, slot] & visible[:-1, slot]
    for first, after in _runs(stepping):
        path = still[first - 1 : after, slot] - still[first - 1, slot]
        name, far = names[slot][first], int(np.abs(path).sum(1).argmax())
        if np.abs(path[-1]).max() < 0.05:
            others = [other for other in names if other != slot and visible[first, other]]
            gap = {other: float(np.hypot(*(still[first - 1 + far, slot] - still[first, other]))) for other in others}
            yield Happening(
                "bump", first, after - 1, name, _way(path[far]), other=names[min(gap, key=gap.__getitem__)][first]
            )
        else:
            yield Happening("move", first, after - 1, name, _way(path[-1]))


def _way(displacement: Centres) -> str:
    across, down = displacement
    if abs(across) > abs(down):
        return "right" if across > 0 else "left"
    return "down" if down > 0 else "up"


def _numbers(
    staging: Staging, still: Centres, visible: NDArray[np.bool_], height: int, width: int
) -> Iterator[Happening]:
    tens, ones = DIGIT_SLOTS
    for first, after in _runs(visible[:, tens] & visible[:, ones]):
        digits = [int(staging.slots[first, slot, 3]) - len(SHAPES) for slot in DIGIT_SLOTS]
        middle = still[first, [tens, ones]].mean(0)
        yield Happening(
            "number", first, after - 1, number=10 * digits[0] + digits[1],
            colour=colour_names(staging.slots[[first], tens, 4:7])[0], place=place_name(middle, height, width),
        )  # fmt: skip
