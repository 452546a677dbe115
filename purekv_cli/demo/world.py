"""What happens in a demo clip: a small world of coloured shapes, written down as a program of events.

A :class:`Scene` is plain data drawn from a seed: who is there and which events follow one another. Everything that is
later *asked* (language.py) is read off this program and everything that is *seen* (staging.py, render.py) is drawn from
it, so a question's answer is true by construction. Events never overlap and at least one quiet temporal patch lies
between two of them; what is left of the clip's length is spread at random, so long clips have long quiet stretches.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "diamond", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "cyan")
SITES = (
    "top left", "top", "top right",
    "left", "centre", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
EVENT_KINDS = ("appear", "disappear", "move", "recolour", "blink", "bump", "number")
MOST_EVENTS = 6  # of a clip
MERGED_CELL = 28  # pixels that one visual token covers
FRAME_SIDES = (168, 196, 224, 252, 280)
FULL_SIZE, HALF_SIZE = 44.0, 22.0  # object diameters in pixels

Name = tuple[str, str]  # (colour, shape)


@dataclass(frozen=True)
class Thing:
    """A coloured shape. `site` is None while it is not (yet, or any more) in the picture."""

    colour: str
    shape: str
    site: int | None
    size: float  # pixels

    @property
    def name(self) -> Name:
        return self.colour, self.shape


@dataclass(frozen=True)
class Event:
    """One thing that happens, from temporal patch `start` on for `length` patches.

    `name` is what the actor is called when the event begins; a recoloured thing has its new name afterwards.
    """

    kind: str
    start: int
    length: int
    actor: int = -1  # index into Scene.things; -1 for a number
    name: Name = ("", "")
    direction: str = ""
    to_colour: str = ""
    times: int = 0
    other: int = -1
    other_name: Name = ("", "")
    number: int = -1
    number_colour: str = ""
    site: int = -1  # where a number flashes, an object appears, or a move ends


@dataclass(frozen=True)
class Scene:
    """A clip's program: the things as they are at the start, and what happens to them."""

    patches: int  # temporal patches of two frames each
    height: int
    width: int
    milliseconds_per_frame: int
    things: tuple[Thing, ...]
    events: tuple[Event, ...]
    hardness: float  # 0 (plain, large objects) to 1 (half-size objects, every disturbance)
    seed: int

    @property
    def seconds_per_patch(self) -> float:
        return 2 * self.milliseconds_per_frame / 1000

    def states(self) -> Iterator[tuple[Thing, ...]]:
        """The things before the first event, then after each event."""
        things = self.things
        yield things
        for event in self.events:
            things = apply(event, things)
            yield things

    def final_things(self) -> tuple[Thing, ...]:
        *_, last = self.states()
        return last

    def names_ever_seen(self) -> set[Name]:
        return {thing.name for things in self.states() for thing in things if thing.site is not None}


def apply(event: Event, things: tuple[Thing, ...]) -> tuple[Thing, ...]:
    """The things after an event."""
    if event.kind in ("number", "blink", "bump"):
        return things
    changed = list(things)
    thing = things[event.actor]
    if event.kind == "disappear":
        changed[event.actor] = replace(thing, site=None)
    elif event.kind == "recolour":
        changed[event.actor] = replace(thing, colour=event.to_colour)
    else:  # appear, move
        changed[event.actor] = replace(thing, site=event.site)
    return tuple(changed)


def event_count_range(patches: int) -> tuple[int, int]:
    """How many events a clip of this length may have."""
    for limit, counts in ((6, (1, 1)), (12, (1, 2)), (24, (2, 4)), (48, (3, 5))):
        if patches < limit:
            return counts
    return 3, MOST_EVENTS


def make_scene(
    seed: int,
    patches: int,
    height: int = 224,
    width: int = 224,
    milliseconds_per_frame: int = 500,
    hardness: float = 1.0,
    alike: bool = False,
) -> Scene:
    """Draw a scene from a seed; the same arguments always give the same scene.

    `alike` gives all things one or two colours, so that only their shapes tell them apart (used in training).
    """
    rng = random.Random(f"scene {seed}")
    things = _first_things(rng, hardness, alike)
    low, high = event_count_range(patches)
    wanted = 0 if rng.random() < 0.03 else rng.randint(low, high)
    events: list[Event] = []
    used_names = {thing.name for thing in things}
    room = patches - 1  # the first patch is quiet
    state = things
    numbers_left = 1 if rng.random() < 0.8 else 0
    while len(events) < wanted:
        event = None
        for _ in range(12):
            kind = rng.choice(EVENT_KINDS if numbers_left else EVENT_KINDS[:-1])
            event = _propose(kind, rng, state, used_names, patches)
            if event is not None and event.length + 1 <= room:
                break
            event = None
        if event is None:
            break
        numbers_left -= event.kind == "number"
        room -= event.length + 1
        if event.kind == "recolour":
            used_names.add((event.to_colour, event.name[1]))
        state = apply(event, state)
        events.append(event)
    return Scene(
        patches, height, width, milliseconds_per_frame, things, tuple(_schedule(rng, events, room)), hardness, seed
    )


def _schedule(rng: random.Random, events: list[Event], slack: int) -> Iterator[Event]:
    """Give each event its start: one quiet patch before each, the spare patches cut at random."""
    cuts = sorted(rng.randint(0, slack) for _ in events)
    start, passed = 1, 0
    for event, cut in zip(events, cuts, strict=True):
        start += cut - passed
        passed = cut
        yield replace(event, start=start)
        start += event.length + 1


def _first_things(rng: random.Random, hardness: float, alike: bool) -> tuple[Thing, ...]:
    """Two to four things in the picture, and sometimes others that will appear later; no two share a name."""
    smallest = FULL_SIZE - hardness * (FULL_SIZE - HALF_SIZE)
    present, later = rng.randint(2, 4), rng.choice((0, 1, 1))
    sites = rng.sample(range(len(SITES)), present)
    # A narrow choice of shapes or colours makes counting ("how many red objects") worth asking.
    shapes = rng.sample(SHAPES, rng.randint(5 if alike else 2, len(SHAPES)))
    colours = rng.sample(COLOURS, rng.randint(1, 2) if alike else rng.randint(3, len(COLOURS)))
    names = rng.sample([(colour, shape) for colour in colours for shape in shapes], present + later)
    return tuple(
        Thing(colour, shape, sites[i] if i < present else None, rng.uniform(smallest, FULL_SIZE))
        for i, (colour, shape) in enumerate(names)
    )


def _propose(
    kind: str, rng: random.Random, things: tuple[Thing, ...], used_names: set[Name], patches: int
) -> Event | None:
    """An event of this kind that the present state allows, or None."""
    taken = {thing.site for thing in things if thing.site is not None}
    free = [site for site in range(len(SITES)) if site not in taken]
    visible = [i for i, thing in enumerate(things) if thing.site is not None]
    if kind == "number":
        return Event(
            kind, 0, 1 if patches < 8 else rng.choice((1, 1, 2)),
            number=rng.randint(10, 99), number_colour=rng.choice(COLOURS), site=rng.choice(free),
        )  # fmt: skip
    if kind == "appear":
        hidden = [i for i, thing in enumerate(things) if thing.site is None]
        if not hidden or not free:
            return None
        actor = rng.choice(hidden)
        return Event(kind, 0, 1, actor, things[actor].name, site=rng.choice(free))
    if not visible:
        return None
    if kind in ("move", "bump"):
        return _propose_motion(kind, rng, things, visible, taken, patches)
    actor = rng.choice(visible)
    thing = things[actor]
    if kind == "disappear":
        return Event(kind, 0, 1, actor, thing.name) if len(visible) > 1 else None
    if kind == "recolour":
        options = [colour for colour in COLOURS if (colour, thing.shape) not in used_names]
        return Event(kind, 0, 1, actor, thing.name, to_colour=rng.choice(options)) if options else None
    times = rng.randint(1, 2 if patches < 12 else 4)  # blink
    return Event(kind, 0, 2 * times - 1, actor, thing.name, times=times)


def _propose_motion(
    kind: str, rng: random.Random, things: tuple[Thing, ...], visible: list[int], taken: set[int], patches: int
) -> Event | None:
    """A move to a free neighbouring site, or a bump into the neighbour who stands there."""
    ways = []
    for actor in visible:
        for direction in STEPS:
            target = step(things[actor].site or 0, direction)
            if target is not None and (target in taken) == (kind == "bump"):
                ways.append((actor, direction, target))
    if not ways:
        return None
    actor, direction, target = rng.choice(ways)
    name = things[actor].name
    if kind == "bump":
        other = next(i for i in visible if things[i].site == target)
        return Event(kind, 0, 3, actor, name, direction, other=other, other_name=things[other].name)
    further = step(target, direction)
    if further is not None and further not in taken and rng.random() < 0.4:
        target = further
    return Event(kind, 0, 2 if patches < 8 else rng.choice((2, 3)), actor, name, direction, site=target)


def step(site: int, direction: str) -> int | None:
    """The neighbouring site in this direction, or None at the edge of the 3 x 3 grid."""
    across, down = STEPS[direction]
    column, row = site % 3 + across, site // 3 + down
    return row * 3 + column if 0 <= column < 3 and 0 <= row < 3 else None
