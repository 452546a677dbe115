"""Questions about a scene, with answers that are true of its program of events.

One small function per question type reads the program and returns the blanks of a wording and the answer, or None where
the type does not fit the scene. Some questions ask for what the clip does not show; their honest answer is always
:data:`NOT_SHOWN`. Things are called by the name they have at the moment of the event ("the red square turns blue", then
"the blue square moves left"); a question whose name would be ambiguous is not asked.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from purekv_cli.demo.wording import TEMPLATES, dress, made_up, mistype, nouns, templates, word_narration
from purekv_cli.demo.world import COLOURS, SHAPES, SITES, STEPS, Event, Name, Scene, Thing

NOT_SHOWN = "The clip does not show that."
NOTHING = "Nothing."
NOTHING_HAPPENS = "Nothing happens."
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TIMES = ("never", "once", "twice", "three times", "four times")
QUESTION_TYPES = ("narration", *TEMPLATES)
UNANSWERABLE_SHARE = 0.13  # of the questions of a type that can be unanswerable

Blanks = dict[str, str]


@dataclass(frozen=True)
class Question:
    """A question in plain words and its one true answer."""

    type: str
    text: str
    answer: str


def normalise(text: str) -> str:
    """Lower case, no punctuation, single blanks: the form in which answers are compared."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


def matches(answer: str, truth: str) -> bool:
    """Exact match up to case, punctuation and blanks."""
    return normalise(answer) == normalise(truth)


def called(name: Name) -> str:
    return f"{name[0]} {name[1]}"


def sentence(event: Event) -> str:
    """An event in plain words, without capital and full stop."""
    who = called(event.name)
    match event.kind:
        case "appear":
            return f"a {who} appears" if event.name[0] != "orange" else f"an {who} appears"
        case "disappear":
            return f"the {who} disappears"
        case "move":
            return f"the {who} moves {event.direction}"
        case "recolour":
            return f"the {who} turns {event.to_colour}"
        case "blink":
            return f"the {who} blinks {_TIMES[event.times]}"
        case "bump":
            return f"the {who} hits the {called(event.other_name)}"
        case _:
            return f"the number {event.number} flashes"


def _full(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def narrate(scene: Scene) -> str:
    """All events in their order, in one sentence."""
    return _full(", then ".join(sentence(event) for event in scene.events)) if scene.events else NOTHING_HAPPENS


def third(event: Event, patches: int) -> str | None:
    """The part of the clip an event falls into, or None near a boundary."""
    middle = (event.start + event.length / 2) / patches
    for low, high, words in ((0.0, 0.3, "near the start"), (0.37, 0.63, "in the middle"), (0.7, 1.0, "near the end")):
        if low <= middle <= high:
            return words
    return None


def _verbs(event: Event) -> list[tuple[str, str]]:
    """Ways to refer to an event: (third person, infinitive)."""
    match event.kind:
        case "appear":
            return [("appears", "appear"), ("shows up", "show up")]
        case "disappear":
            return [("disappears", "disappear"), ("vanishes", "vanish")]
        case "move":
            way = event.direction
            to = f"to the {way}" if way in ("left", "right") else way
            return [(f"moves {way}", f"move {way}"), (f"goes {way}", f"go {way}"), (f"moves {to}", f"move {to}")]
        case "recolour":
            colour = event.to_colour
            return [(f"turns {colour}", f"turn {colour}"), (f"becomes {colour}", f"become {colour}")]
        case "blink":
            return [("blinks", "blink")]
        case "bump":
            other = called(event.other_name)
            return [(f"hits the {other}", f"hit the {other}"), (f"bumps into the {other}", f"bump into the {other}")]
        case _:
            return [("flashes", "flash"), ("is shown", "be shown")]


def _refer(event: Event, rng: random.Random, mark: str = "") -> Blanks:
    finite, base = rng.choice(_verbs(event))
    if base == "be shown":  # "does the number be shown" is no English
        finite, base = "flashes", "flash"
    subject = f"number {event.number}" if event.kind == "number" else called(event.name)
    return {f"subject{mark}": subject, f"finite{mark}": finite, f"base{mark}": base}


def _key(event: Event) -> tuple[object, ...]:
    """Two events with the same key cannot be told apart by a reference."""
    return event.kind, event.name, event.direction, event.to_colour, event.other_name, event.number


def _unique_events(scene: Scene) -> list[int]:
    keys = [_key(event) for event in scene.events]
    return [i for i, key in enumerate(keys) if keys.count(key) == 1]


def _absent_name(scene: Scene, rng: random.Random) -> Name:
    """A name never seen in the clip, half the time close to one that is."""
    seen = scene.names_ever_seen() | {thing.name for thing in scene.things}
    colour, shape = rng.choice(sorted(seen))
    options = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in seen]
    close = [name for name in options if name[0] == colour or name[1] == shape]
    return rng.choice(close if close and rng.random() < 0.5 else options)


def _idle_name(scene: Scene, kind: str, rng: random.Random) -> Name:
    """A thing that never does this, or one that is not there at all."""
    busy = {event.actor for event in scene.events if event.kind == kind}
    busy |= {event.actor for event in scene.events if event.kind == "recolour"}  # its name changes: ambiguous
    idle = [thing.name for i, thing in enumerate(scene.things) if i not in busy and thing.site is not None]
    return rng.choice(idle) if idle and rng.random() < 0.6 else _absent_name(scene, rng)


def _foreign_event(scene: Scene, rng: random.Random) -> Event:
    """An event that does not happen in the clip."""
    kind = rng.choice(("disappear", "move", "recolour", "blink", "number"))
    if kind == "number":
        shown = {event.number for event in scene.events}
        return Event("number", 0, 1, number=rng.choice([n for n in range(10, 100) if n not in shown]))
    name = _idle_name(scene, kind, rng)
    direction = rng.choice(tuple(STEPS)) if kind == "move" else ""
    to_colour = rng.choice([c for c in COLOURS if c != name[0]]) if kind == "recolour" else ""
    return Event(kind, 0, 1, 0, name, direction, to_colour, times=1)


def _only(scene: Scene, kind: str) -> list[Event]:
    """Events whose actor does this exactly once."""
    events = [event for event in scene.events if event.kind == kind]
    return [event for event in events if sum(other.actor == event.actor for other in events) == 1]


def _unseen(rng: random.Random) -> bool:
    return rng.random() < UNANSWERABLE_SHARE


Asker = Callable[[Scene, random.Random], tuple[Blanks, str] | None]


def _about_number(answer: Callable[[Event, Scene], str | None]) -> Asker:
    def ask(scene: Scene, rng: random.Random) -> tuple[Blanks, str] | None:
        shown = [event for event in scene.events if event.kind == "number"]
        if not shown:
            return ({}, NOT_SHOWN) if rng.random() < 0.35 else None
        found = answer(shown[0], scene)
        return None if found is None else ({}, found)

    return ask


def _count(scene: Scene, rng: random.Random) -> tuple[Blanks, str]:
    end = rng.choice(("start", "end"))
    things = [t for t in (scene.things if end == "start" else scene.final_things()) if t.site is not None]
    ways: list[tuple[str, Callable[[Thing], bool]]] = [("objects", lambda thing: True)]
    shape = rng.choice([thing.shape for thing in things] if rng.random() < 0.85 else SHAPES)
    colour = rng.choice([thing.colour for thing in things] if rng.random() < 0.85 else COLOURS)
    plural = f"{shape}es" if shape == "cross" else f"{shape}s"
    ways.append((plural, lambda thing: thing.shape == shape))
    ways.append((f"{colour} objects", lambda thing: thing.colour == colour))
    group, fits = rng.choice(ways)
    return {"group": group, "end": end}, NUMBER_WORDS[sum(fits(thing) for thing in things)]


def _about_actor(kind: str, answer: Callable[[Event], str]) -> Asker:
    def ask(scene: Scene, rng: random.Random) -> tuple[Blanks, str] | None:
        if _unseen(rng):
            return {"thing": called(_idle_name(scene, kind, rng))}, NOT_SHOWN
        events = _only(scene, kind)
        if not events:
            return None
        event = rng.choice(events)
        return {"thing": called(event.name)}, answer(event)

    return ask


def _recolour_who(scene: Scene, rng: random.Random) -> tuple[Blanks, str] | None:
    events = [event for event in scene.events if event.kind == "recolour"]
    colours = [event.to_colour for event in events]
    if _unseen(rng):
        return {"colour": rng.choice([c for c in COLOURS if c not in colours])}, NOT_SHOWN
    single = [event for event in events if colours.count(event.to_colour) == 1]
    if not single:
        return None
    event = rng.choice(single)
    return {"colour": event.to_colour}, f"the {called(event.name)}"


def _end_of_story(place: int) -> Asker:
    def ask(scene: Scene, rng: random.Random) -> tuple[Blanks, str] | None:
        if not scene.events:
            return ({}, NOTHING) if rng.random() < 0.3 else None
        return {}, _full(sentence(scene.events[place]))

    return ask


def _beside(offset: int) -> Asker:
    def ask(scene: Scene, rng: random.Random) -> tuple[Blanks, str] | None:
        if len(scene.events) < 2:
            return None
        if _unseen(rng):
            return _refer(_foreign_event(scene, rng), rng), NOT_SHOWN
        known = _unique_events(scene)
        if not known:
            return None
        at = rng.choice(known)
        beside = at + offset
        inside = 0 <= beside < len(scene.events)
        return _refer(scene.events[at], rng), _full(sentence(scene.events[beside])) if inside else NOTHING

    return ask


def _when(scene: Scene, rng: random.Random) -> tuple[Blanks, str] | None:
    if _unseen(rng):
        return _refer(_foreign_event(scene, rng), rng), NOT_SHOWN
    known = [scene.events[i] for i in _unique_events(scene)]
    timed = [(event, part) for event in known if (part := third(event, scene.patches)) is not None]
    if not timed or scene.patches < 6:
        return None
    event, part = rng.choice(timed)
    return _refer(event, rng), part


def _where(scene: Scene, rng: random.Random) -> tuple[Blanks, str]:
    end = rng.choice(("start", "end"))
    if _unseen(rng):
        return {"thing": called(_absent_name(scene, rng)), "end": end}, NOT_SHOWN
    things = [t for t in (scene.things if end == "start" else scene.final_things()) if t.site is not None]
    thing = rng.choice(things)
    assert thing.site is not None
    return {"thing": called(thing.name), "end": end}, SITES[thing.site]


def _colour_of(scene: Scene, rng: random.Random) -> tuple[Blanks, str] | None:
    seen = sorted(scene.names_ever_seen())
    shapes = [shape for _, shape in seen]
    if _unseen(rng):
        missing = [shape for shape in SHAPES if shape not in shapes]
        return ({"shape": rng.choice(missing)}, NOT_SHOWN) if missing else None
    single = [(colour, shape) for colour, shape in seen if shapes.count(shape) == 1]
    if not single:
        return None
    colour, shape = rng.choice(single)
    return {"shape": shape}, colour


def _shape_of(scene: Scene, rng: random.Random) -> tuple[Blanks, str] | None:
    seen = sorted(scene.names_ever_seen())
    colours = [colour for colour, _ in seen]
    if _unseen(rng):
        missing = [colour for colour in COLOURS if colour not in colours]
        return ({"colour": rng.choice(missing)}, NOT_SHOWN) if missing else None
    single = [(colour, shape) for colour, shape in seen if colours.count(colour) == 1]
    if not single:
        return None
    colour, shape = rng.choice(single)
    return {"colour": colour}, shape


def _exists(scene: Scene, rng: random.Random) -> tuple[Blanks, str]:
    if rng.random() < 0.5:
        return {"thing": called(rng.choice(sorted(scene.names_ever_seen())))}, "yes"
    return {"thing": called(_absent_name(scene, rng))}, "no"


def _happened(scene: Scene, rng: random.Random) -> tuple[Blanks, str] | None:
    if rng.random() < 0.5:
        return _refer(_foreign_event(scene, rng), rng), "no"
    return (_refer(rng.choice(scene.events), rng), "yes") if scene.events else None


def _event_count(scene: Scene, rng: random.Random) -> tuple[Blanks, str]:
    return {}, NUMBER_WORDS[len(scene.events)]


def _order(scene: Scene, rng: random.Random) -> tuple[Blanks, str] | None:
    known = _unique_events(scene)
    if len(known) < 2:
        return None
    pair = rng.sample(known, 2)
    one, two = (scene.events[i] for i in pair)
    blanks = _refer(one, rng) | _refer(two, rng, "2")
    return blanks, _full(sentence(scene.events[min(pair)]))


def _actor(scene: Scene, rng: random.Random) -> tuple[Blanks, str] | None:
    kinds = ("appear", "disappear", "move", "blink")
    if _unseen(rng):
        missing = [kind for kind in kinds if all(event.kind != kind for event in scene.events)]
        if not missing:
            return None
        kind = rng.choice(missing)
        return {"finite": {"move": "moves"}.get(kind, f"{kind}s")}, NOT_SHOWN
    single = [e for e in scene.events if e.kind in kinds and sum(e.kind == other.kind for other in scene.events) == 1]
    if not single:
        return None
    event = rng.choice(single)
    return {"finite": {"move": "moves"}.get(event.kind, f"{event.kind}s")}, f"the {called(event.name)}"


ASKERS: dict[str, Asker] = {
    "number": _about_number(lambda event, scene: str(event.number)),
    "number_where": _about_number(lambda event, scene: SITES[event.site]),
    "number_when": _about_number(lambda event, scene: third(event, scene.patches)),
    "number_colour": _about_number(lambda event, scene: event.number_colour),
    "count": _count,
    "direction": _about_actor("move", lambda event: event.direction),
    "recolour_to": _about_actor("recolour", lambda event: event.to_colour),
    "recolour_who": _recolour_who,
    "blink_count": _about_actor("blink", lambda event: NUMBER_WORDS[event.times]),
    "first": _end_of_story(0),
    "last": _end_of_story(-1),
    "after": _beside(1),
    "before": _beside(-1),
    "when": _when,
    "where": _where,
    "colour_of": _colour_of,
    "shape_of": _shape_of,
    "exists": _exists,
    "happened": _happened,
    "collision": _about_actor("bump", lambda event: f"the {called(event.other_name)}"),
    "event_count": _event_count,
    "order": _order,
    "actor": _actor,
}


def ask(
    question_type: str, scene: Scene, rng: random.Random, held_out: bool = False, rough: bool = False
) -> Question | None:
    """A question of this type about the scene, or None where the type does not fit.

    `held_out` uses only wordings that training never saw; `rough` adds typing errors, stray words and made-up nouns
    (training).
    """
    if question_type == "narration":
        return Question(question_type, dress(word_narration(rng, held_out, rough), rng), narrate(scene))
    if question_type == "unknown":
        noun = made_up(rng) if rough and rng.random() < 0.4 else rng.choice(nouns(held_out))
        blanks, answer = {"noun": noun}, NOT_SHOWN
    else:
        asked = ASKERS[question_type](scene, rng)
        if asked is None:
            return None
        blanks, answer = asked
    text = rng.choice(templates(question_type, held_out)).format(**blanks).replace(" a orange", " an orange")
    if rough and rng.random() < 0.03:
        text = mistype(text, rng)
    return Question(question_type, dress(text, rng), answer)
