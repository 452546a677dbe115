"""The times an answer mentions, held against the clip: a model may name moments that it was never shown."""

from collections.abc import Sequence
from dataclasses import dataclass

from purekv_cli.answers.moments import moments
from purekv_cli.report.units import clock


@dataclass(frozen=True, slots=True)
class Mention:
    """One time in an answer."""

    text: str  # as it stands there
    seconds: float  # of the video, where `text` counts from what the model calls 0:00
    in_clip: bool  # within the range that was asked about, as exactly as it is written
    nearest_frame: float | None  # s of the video: the frame that the model saw there


def mentions(text: str, origin: float, span: tuple[float, float], frames: Sequence[float]) -> list[Mention]:
    """The times that an answer mentions, in order.

    Args:
        origin: s of the video that the model calls 0:00.
        span: s of the video, the clip.
        frames: s of the video, when the frames are that the model saw.
    """
    found = []
    for moment in moments(text):
        seconds, slack = origin + moment.seconds, moment.precision / 2
        inside = span[0] - slack <= seconds <= span[1] + slack
        nearest = min(frames, key=lambda time: abs(time - seconds), default=None)
        found.append(Mention(moment.text, seconds, inside, None if nearest is None else float(nearest)))
    return found


def outside(found: Sequence[Mention], origin: float, span: tuple[float, float]) -> str | None:
    """What to say of times outside the clip; None: there are none."""
    wrong = [mention.text for mention in found if not mention.in_clip]
    if not wrong:
        return None
    first, last = (clock(time - origin) for time in span)
    return f"the answer says {', '.join(wrong)}, but the clip the model saw goes from {first} to {last}"
