"""What goes into the quality bench and what comes out: items, graded answers, and what a way of grading is.

Of the items of a video one `Way` makes a `Graded` for every item and arm. Two: `engine_way` asks as a user does,
with real pruning and generation; `replay` reads every arm off one dense prefill, teacher-forced: exact, far faster.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from purekv_cli.eval.arms import Arm, When
from purekv_cli.video.frames import Frames


@dataclass(frozen=True, slots=True)
class Item:
    """One question about one video and its true answer."""

    suite: str
    video: str  # a path, or a clip such as "clipworld/medium/17"
    id: str  # unique in its data set
    type: str
    question: str
    truth: str
    options: tuple[str, ...] = ()  # of a multiple choice, in the order of their letters
    talk: tuple[tuple[str, str], ...] = ()  # questions before it in the same conversation, with their answers


@dataclass(frozen=True, slots=True)
class Graded:
    """One answer in one arm and whether it is right."""

    suite: str
    video: str
    id: str
    type: str
    question: str
    truth: str
    answer: str
    right: bool
    policy: str
    budget: str
    when: When
    propagate: str | None
    sparse: bool
    kv_bytes_full: int  # K and V of prefix, video, question and template, all layers and heads
    kv_bytes_kept: int  # of these, what the cache's tensors hold as the answer begins, padding of uneven heads included
    kl: float | None  # nats, mean over the true answer's tokens and its end: dense || arm, teacher-forced
    agreement: float | None  # share of those tokens whose first choice is the same as dense's
    error: str | None = None  # why there is no answer; then `right` is False and counts for nothing
    probe: str | None = None  # as in Arm


def graded(item: Item, arm: Arm, **found: Any) -> Graded:
    """The record of an item in an arm; what is not found is that of an answer that could not be made."""
    values: dict[str, Any] = {
        **{name: getattr(item, name) for name in ("suite", "video", "id", "type", "question", "truth")},
        **asdict(arm),
        **{"answer": "", "right": False, "kv_bytes_full": 0, "kv_bytes_kept": 0, "kl": None, "agreement": None},
    }
    return Graded(**{**values, **found})


class Way(Protocol):
    """How items are graded."""

    def grade(self, items: Sequence[Item], arms: Sequence[Arm], frames: Frames | None = None) -> Iterator[Graded]:
        """Grade all items of one video, in the data set's order, in every arm.

        With `unknown` the items share what was pruned once, and the first one's length sets the budget's room for a
        question: give a video's items together. What one item or arm cannot do becomes its `error`.

        Args:
            frames: of the video, where they have been decoded; None: they are read here, as `clipworld.frames_of` does.
        """
        ...
