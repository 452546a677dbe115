"""One subtitle, and what happens to a list of them between the file and the prompt; pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

TOUCHING = 0.1  # s: a gap that no viewer sees


@dataclass(frozen=True, slots=True)
class Cue:
    """What is said while."""

    start: float  # s from the video's first frame
    end: float  # s
    text: str  # without markup; lines as in the file


def said_once(cues: Sequence[Cue]) -> list[Cue]:
    """By time, without what the cue just before already shows.

    Live captions roll: each cue repeats the line above its new one. A cue with nothing new only lengthens the last.
    """
    kept: list[Cue] = []
    shown: list[str] = []  # lines of the cue before
    until = float("-inf")
    for cue in sorted(cues, key=lambda each: (each.start, each.end)):
        lines = [" ".join(line.split()) for line in cue.text.splitlines() if line.strip()]
        if not lines:
            continue
        if cue.start <= until + TOUCHING:
            common = next((n for n in range(min(len(lines), len(shown)), 0, -1) if lines[:n] == shown[-n:]), 0)
        else:
            common = 0
        if common == len(lines) and kept:
            kept[-1] = replace(kept[-1], end=max(kept[-1].end, cue.end))
        else:
            kept.append(Cue(cue.start, cue.end, "\n".join(lines[common:])))
        shown, until = lines, cue.end
    return kept


def within(cues: Sequence[Cue], start: float, end: float) -> list[Cue]:
    """Those that are on show at some moment of [start, end), cut at its ends."""
    there = (cue for cue in cues if cue.start < end and max(cue.end, cue.start + TOUCHING) > start)
    return [replace(cue, start=max(cue.start, start), end=min(cue.end, end)) for cue in there]
