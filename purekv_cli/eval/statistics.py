"""What can be said of shares of right answers: intervals, and differences of two arms on the same questions.

Questions of one video are not independent, so differences are resampled by video (cluster bootstrap, Cameron et al.
2008); beside the interval stands McNemar's exact test over questions. Everything is seeded: the same rows give the
same numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

DRAWS = 2000
_Z = 1.959963984540054  # of a two-sided 95 % interval

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Difference:
    """Arm a against arm b, on the questions that both answered."""

    n: int
    points: float  # share right of a minus that of b
    interval: Interval | None  # 95 %, of the resampled videos; None where there is but one
    only_a: int  # questions that a alone answered rightly
    only_b: int
    p: float  # McNemar, exact, two-sided
    ratio: float | None  # share right of a over that of b; None where b was never right
    ratio_interval: Interval | None  # None where that or one video makes it meaningless


def wilson(right: int, asked: int) -> Interval:
    """The 95 % score interval of a share; (0, 1) when nothing was asked."""
    if not asked:
        return 0.0, 1.0
    share, weight = right / asked, _Z * _Z / asked
    middle = (share + weight / 2) / (1 + weight)
    half = _Z * math.sqrt(share * (1 - share) / asked + weight / (4 * asked)) / (1 + weight)
    return middle - half if right else 0.0, middle + half if right < asked else 1.0


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p that both arms are right equally often, from the questions on which they differ."""
    n, ways, tail = only_a + only_b, 1, 0
    for k in range(min(only_a, only_b) + 1):
        tail += ways
        ways = ways * (n - k) // (k + 1)  # n over k + 1
    return min(1.0, 2 * tail / 2**n)  # whole numbers divide exactly, however large


def difference(right_a: Sequence[bool], right_b: Sequence[bool], videos: Sequence[str], seed: int = 0) -> Difference:
    """Compare two arms question by question.

    Args:
        right_a, right_b: of the same questions in the same order, at least one.
        videos: which video each question is about.
    """
    a, b = (np.asarray(right, dtype=bool) for right in (right_a, right_b))
    names, which = np.unique(np.asarray(videos), return_inverse=True)
    asked, of_a, of_b = (np.bincount(which, weights=values, minlength=len(names)) for values in (np.ones(len(a)), a, b))
    weights = _resampled(len(names), seed)
    total, right, other = weights @ asked, weights @ of_a, weights @ of_b
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    several, possible = len(names) > 1, other > 0
    return Difference(
        n=len(a),
        points=float(a.mean() - b.mean()),
        interval=_middle((right - other) / total) if several else None,
        only_a=only_a,
        only_b=only_b,
        p=mcnemar(only_a, only_b),
        ratio=float(a.sum() / b.sum()) if b.any() else None,
        ratio_interval=_middle(right[possible] / other[possible]) if several and possible.any() else None,
    )


def _middle(values: np.ndarray) -> Interval:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


@lru_cache(maxsize=8)
def _resampled(videos: int, seed: int) -> np.ndarray:
    """How often each video is drawn, float64 [DRAWS, videos]: the same for all arms, so that they are comparable."""
    drawn = np.random.default_rng(seed).multinomial(videos, np.full(videos, 1 / videos), size=DRAWS)
    return drawn.astype(np.float64)
