"""Subtitles as the model reads them: `[0:03-0:05] text` lines, thinned evenly where they are too many."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from purekv_cli.report.units import clock
from purekv_cli.subtitles.cue import Cue

HEADER = "Subtitles of the video:"


@dataclass(frozen=True, slots=True)
class Lines:
    """What goes into the prompt."""

    text: str  # "" where there is nothing to say
    shown: int  # cues in it
    there: int  # cues there were


def line(cue: Cue, origin: float) -> str:
    """Whole seconds, counted from `origin` (s)."""
    first, last = (clock(float(round(max(0.0, time - origin)))) for time in (cue.start, cue.end))
    return f"[{first}-{last}] {' '.join(cue.text.split())}"


def lines(cues: Sequence[Cue], origin: float, most: int, count: Callable[[str], int]) -> Lines:
    """The cues as text of at most `most` tokens, header included; every n-th is shown where all are too many.

    Args:
        origin: s, what the model calls 0:00.
        count: tokens of a text.
    """
    written = [line(cue, origin) for cue in cues]
    tokens = [count(each + "\n") for each in written]
    room = most - count(HEADER + "\n")
    shown = len(written)
    while shown and sum(tokens[place] for place in _spread(len(written), shown)) > room:
        # An estimate from what is too many now, always less: a few rounds, whatever the lengths.
        taken = sum(tokens[place] for place in _spread(len(written), shown))
        shown = min(shown - 1, max(0, shown * room // taken))
    if not shown:
        return Lines("", 0, len(written))
    chosen = (written[place] for place in _spread(len(written), shown))
    return Lines("\n".join([HEADER, *chosen]), shown, len(written))


def _spread(total: int, count: int) -> list[int]:
    """`count` places of `total`, evenly: the middles of equal parts."""
    return [(2 * part + 1) * total // (2 * count) for part in range(count)]
