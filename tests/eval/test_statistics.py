"""Intervals and tests against numbers that are known, and against their own definitions."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purekv_cli.eval.statistics import difference, mcnemar, wilson


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),
    [(0, 10, 0.0, 0.277533), (5, 10, 0.236593, 0.763407), (10, 10, 0.722467, 1.0), (81, 263, 0.255289, 0.366210)],
)
def test_wilson_as_published(right: int, asked: int, low: float, high: float) -> None:
    # The last is Newcombe (1998), table I: 81 of 263 gives .2553 to .3662.
    assert wilson(right, asked) == pytest.approx((low, high), abs=5e-5)


def test_wilson_of_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.integers(1, 5000), st.data())
def test_wilson_holds_the_share(asked: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, asked))
    low, high = wilson(right, asked)
    assert 0 <= low <= right / asked <= high <= 1
    assert high - low < 4 / math.sqrt(asked)


@pytest.mark.parametrize(("a", "b"), [(0, 0), (3, 3), (0, 5), (1, 9), (12, 2)])
def test_mcnemar_counts_all_outcomes_as_unlikely(a: int, b: int) -> None:
    """By hand: all 2^n ways in which n questions could fall to one arm or the other."""
    outcomes = [sum(way) for way in product((0, 1), repeat=a + b)]
    as_far = sum(abs(k - (a + b) / 2) >= abs(a - b) / 2 for k in outcomes)
    assert mcnemar(a, b) == pytest.approx(as_far / len(outcomes))


def test_mcnemar_of_many() -> None:
    assert 0 < mcnemar(4000, 4400) < 1e-4
    assert mcnemar(3000, 3000) == 1


def test_a_difference_of_nothing() -> None:
    found = difference([True, False, True], [True, False, True], ["a", "b", "b"])
    assert (found.points, found.interval, found.p) == (0, (0, 0), 1)
    assert found.ratio == 1
    assert found.ratio_interval == (1, 1)


def test_a_difference_that_is_there() -> None:
    a, b = [True] * 400, [n % 10 > 0 for n in range(400)]
    found = difference(a, b, [str(n // 4) for n in range(400)])
    assert (found.n, found.only_a, found.only_b) == (400, 40, 0)
    assert found.points == pytest.approx(0.1)
    assert found.interval
    assert 0.05 < found.interval[0] < 0.1 < found.interval[1] < 0.15
    assert found.ratio == pytest.approx(1 / 0.9)
    assert found.p < 1e-10


def test_where_the_other_arm_is_never_right() -> None:
    found = difference([True, False], [False, False], ["a", "b"])
    assert found.ratio is None
    assert found.ratio_interval is None


def test_one_video_has_no_interval() -> None:
    found = difference([True, False], [False, False], ["a", "a"])
    assert (found.points, found.interval, found.ratio_interval) == (0.5, None, None)


def test_videos_are_resampled_not_questions() -> None:
    """Forty questions that stand or fall together say no more than the four videos that they are about."""
    right = [True] * 20 + [False] * 20
    together = difference(right, [False] * 40, [str(n // 10) for n in range(40)])
    apart = difference(right, [False] * 40, [str(n) for n in range(40)])
    assert together.interval
    assert apart.interval
    assert np.diff(together.interval) > 2 * np.diff(apart.interval)


@settings(deadline=None)  # resampling
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1, max_size=60))
def test_the_same_rows_give_the_same_numbers_in_any_order(rows: list[tuple[bool, bool, int]]) -> None:
    def found(rows: list[tuple[bool, bool, int]]) -> object:
        return difference([r[0] for r in rows], [r[1] for r in rows], [str(r[2]) for r in rows])

    assert found(rows) == found(rows[::-1])


@settings(deadline=None)  # resampling
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_turned_round_the_sign_changes(pairs: list[tuple[bool, bool]]) -> None:
    videos = [str(n % 7) for n in range(len(pairs))]
    a, b = zip(*pairs, strict=True)
    there, back = difference(a, b, videos), difference(b, a, videos)
    assert there.points == pytest.approx(-back.points)
    assert there.interval
    assert back.interval
    assert np.allclose(there.interval, [-x for x in back.interval[::-1]])
    assert there.p == back.p


def test_the_seed_draws_other_videos() -> None:
    generator = np.random.default_rng(0)
    right = (generator.random(200) < 0.7).tolist()
    videos = generator.integers(0, 30, 200).astype(str).tolist()
    first, second = (difference(right, [False] * 200, videos, seed) for seed in (0, 1))
    assert first.interval != second.interval
    assert first.interval
    assert first.interval == pytest.approx(second.interval, abs=0.02)
