"""Programs of events: drawn from a seed alone, well formed, and told by what is staged."""

from itertools import pairwise

import numpy as np
import pytest

from purekv_cli.demo.staging import EVENT_LABELS, GLYPHS, LAMPS, NO_EVENT, stage
from purekv_cli.demo.world import COLOURS, SITES, Event, Scene, event_count_range, make_scene
from tests.demo.seen import Happening, watch

LENGTHS = (4, 7, 16, 33, 64, 128)
SIZES = ((224, 224), (168, 280), (280, 168), (196, 252))


def scenes(count: int) -> list[Scene]:
    """Scenes of all lengths and sizes, plain and hard, and some whose things share a colour."""
    return [
        make_scene(seed, LENGTHS[seed % 6], *SIZES[seed % 4], hardness=(0.0, 0.5, 1.0)[seed % 3], alike=seed % 5 == 0)
        for seed in range(count)
    ]


def reads_as_one(earlier: Event, later: Event) -> bool:
    """Two blinks of one thing, one light patch apart, look like one event of more blinks."""
    return (
        earlier.kind == later.kind == "blink"
        and earlier.actor == later.actor
        and later.start == earlier.start + earlier.length + 1
    )


def in_words(event: Event) -> tuple[object, ...]:
    """What a viewer can tell of an event of the program."""
    return (
        event.kind,
        event.start,
        " ".join(event.name).strip(),
        event.direction,
        event.to_colour or event.number_colour,
        event.times,
        " ".join(event.other_name).strip(),
        event.number,
        SITES[event.site] if event.kind == "number" else "",
    )


def as_noted(seen: Happening) -> tuple[object, ...]:
    return (
        seen.kind, seen.first // 2, seen.name, seen.direction, seen.colour, seen.times, seen.other, seen.number,
        seen.place,
    )  # fmt: skip


def test_a_seed_is_a_scene() -> None:
    for seed in range(50):
        first, again = (stage(make_scene(seed, 16)) for _ in range(2))
        assert make_scene(seed, 16) == make_scene(seed, 16)
        for part in ("slots", "camera", "ground", "glyph_labels", "colour_labels", "story_labels"):
            assert np.array_equal(getattr(first, part), getattr(again, part))


def test_other_seeds_are_other_scenes() -> None:
    programs = {(scene.things, scene.events) for scene in (make_scene(seed, 16) for seed in range(200))}
    assert len(programs) == 200


def test_events_keep_apart_and_inside_the_clip() -> None:
    for scene in scenes(600):
        assert len(scene.events) <= event_count_range(scene.patches)[1]
        for event in scene.events:
            assert event.start >= 1
            assert event.start + event.length <= scene.patches
        for earlier, later in pairwise(scene.events):
            assert later.start > earlier.start + earlier.length  # a quiet patch between them


def test_no_two_things_share_a_name_or_a_place() -> None:
    for scene in scenes(600):
        for things in scene.states():
            present = [thing.site for thing in things if thing.site is not None]
            assert len(set(present)) == len(present) >= 1
            assert len({thing.name for thing in things}) == len(things)


def test_what_is_staged_is_the_program() -> None:
    """A viewer who sees only positions, colours and opacities writes the program down, event by event."""
    told = 0
    for scene in scenes(600):
        if any(reads_as_one(*pair) for pair in pairwise(scene.events)):
            continue
        notes = watch(stage(scene), scene.height, scene.width)
        assert [as_noted(seen) for seen in notes.happenings] == [in_words(event) for event in scene.events]
        assert notes.at_start == {
            " ".join(thing.name): SITES[thing.site] for thing in scene.things if thing.site is not None
        }
        assert notes.at_end == {
            " ".join(thing.name): SITES[thing.site] for thing in scene.final_things() if thing.site is not None
        }
        assert notes.names == {" ".join(name) for name in scene.names_ever_seen()}
        told += len(scene.events)
    assert told > 1000


def test_events_that_read_as_one_are_rare() -> None:
    pairs = [reads_as_one(*pair) for seed in range(2000) for pair in pairwise(make_scene(seed, 16).events)]
    assert sum(pairs) < 0.01 * len(pairs)


def test_labels_name_who_acts() -> None:
    for scene in scenes(100):
        staging = stage(scene)
        for event in (event for event in scene.events if event.actor >= 0):
            label = f"move {event.direction}" if event.kind == "move" else event.kind
            acting = staging.story_labels[event.start : event.start + event.length, :, 0]
            assert (acting[:, LAMPS + event.actor] == EVENT_LABELS.index(label)).all()
            assert (np.delete(acting, LAMPS + event.actor, 1) == 0).all()


def test_labels_tell_the_story() -> None:
    for scene in scenes(100):
        labels, told = stage(scene).story_labels, (NO_EVENT, 0, 0)
        for number, event in enumerate(scene.events, 1):
            here = labels[event.start : event.start + event.length]
            rows = here[here[..., 0] > 0]
            assert (rows[:, 1] == number).all()
            assert (rows[:, 2:] == told).all()
            kind = f"move {event.direction}" if event.kind == "move" else event.kind
            colour, glyph = (event.number_colour, str(event.number // 10)) if event.kind == "number" else event.name
            told = (EVENT_LABELS.index(kind), 1 + COLOURS.index(colour), 1 + GLYPHS.index(glyph))


@pytest.mark.parametrize("hardness", [0.0, 1.0])
def test_disturbances_come_with_hardness(hardness: float) -> None:
    stagings = [stage(make_scene(seed, 16, hardness=hardness)) for seed in range(60)]
    shaken = sum(float(np.ptp(staging.camera[:, :2], axis=0).max()) > 0 for staging in stagings)
    lamps = sum(bool(staging.slots[0, :LAMPS, 7].any()) for staging in stagings)
    noisy = sum(float(staging.ground[7]) > 0 for staging in stagings)
    if hardness:
        assert min(shaken, lamps, noisy) > 30
    else:
        assert max(shaken, lamps, noisy) == 0
