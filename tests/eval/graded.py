"""Graded answers made up for tests."""

from collections.abc import Iterator, Sequence

from purekv_cli.eval.arms import Arm
from purekv_cli.eval.records import Graded, Item

FULL = 1_000_000


def graded(item: Item, arm: Arm, right: bool, error: str | None = None) -> Graded:
    """What a way would say of this item in this arm."""
    return Graded(
        suite=item.suite,
        video=item.video,
        id=item.id,
        type=item.type,
        question=item.question,
        truth=item.truth,
        answer=item.truth if right else "something else",
        right=right,
        policy=arm.policy,
        budget=arm.budget,
        when=arm.when,
        propagate=arm.propagate,
        sparse=arm.sparse,
        kv_bytes_full=FULL,
        kv_bytes_kept=int(FULL * float(arm.budget)),
        kl=None if error else (0.0 if right else 1.5),
        agreement=None if error else float(right),
        error=error,
        probe=arm.probe,
    )


def items(videos: int, questions: int, suite: str = "medium") -> list[Item]:
    """The first question of a video is a narration, the others take turns in two types."""
    types = ["narration", *(["count", "colour"] * questions)][:questions]
    return [
        Item(suite, f"video {v}", f"{v}:{q}", kind, f"question {q} of {v}?", f"answer {q}")
        for v in range(videos)
        for q, kind in enumerate(types)
    ]


def answers(asked: Sequence[Item], arm: Arm, wrong: int = 0) -> Iterator[Graded]:
    """Every `wrong`-th answer is wrong; 0: none is."""
    for number, item in enumerate(asked):
        yield graded(item, arm, right=not wrong or number % wrong > 0)
