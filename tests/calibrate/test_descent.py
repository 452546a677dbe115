"""Weights that are moved downhill, on costs made up for them."""

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.calibrate.choose import Cost
from purekv_cli.calibrate.descent import descend
from purekv_cli.calibrate.trials import LIGHTEST, Dialled, Trial, moved, moves

GOAL = (0.5, 0.05, 0.05, 1.0)
EQUAL = Dialled("purekv", "0.05", "known")
THERE = Dialled("purekv", "0.05", "known", layer_weights=GOAL)


def far(weights: Sequence[float]) -> float:
    """How far from the goal: what is moved towards it is cheaper."""
    return 0.01 * sum(abs(math.log2(a / b)) for a, b in zip(weights, GOAL, strict=True))


def costing(distance: Callable[[Sequence[float]], float], asked: int = 100) -> Callable[[Sequence[Trial]], list[Cost]]:
    def measure(tried: Sequence[Trial]) -> list[Cost]:
        at = [distance(trial.arm.layer_weights) for trial in tried]
        return [
            Cost(trial, asked, asked, cost, 0.1, cost - at[0], 0.0, 0) for trial, cost in zip(tried, at, strict=True)
        ]

    return measure


def test_it_arrives_within_a_factor() -> None:
    found, path = descend(4, EQUAL, 10, costing(far))
    assert all(abs(math.log2(weight / goal)) <= 0.5 for weight, goal in zip(found, GOAL, strict=True))
    distances = [cost.distance for cost in path]
    assert distances == sorted(distances, reverse=True)


def test_moves_that_help_only_alone_are_not_joined() -> None:
    """Two layers may give, but not both: together they cost more than nothing moved."""

    def either(weights: Sequence[float]) -> float:
        light = sum(weight < 1 for weight in weights[:2])
        return (0.1, 0.05, 0.5)[light] + 0.001 * weights[0]

    found, path = descend(3, EQUAL, 20, costing(either))
    assert either(found) < 0.051
    began = [cost.trial.arm.layer_weights for cost in path]
    assert len(set(began)) == len(began) < 20  # no way is gone twice


def test_where_nothing_helps_or_too_little_was_asked_all_stays() -> None:
    assert descend(4, EQUAL, 5, costing(lambda weights: 0.1))[0] in ((), (1.0,) * 4)
    assert descend(4, THERE, 5, costing(far, asked=5)) == (GOAL, [])
    assert descend(4, THERE, 0, costing(far)) == (GOAL, [])


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=40))
def test_every_move_is_one_band_and_weights_stay_in_bounds(weights: list[float]) -> None:
    start = moved(weights, [])
    first, *others = moves(len(weights), start, EQUAL)
    assert first.arm.layer_weights == start
    assert len({trial.arm.layer_weights for trial in [first, *others]}) == len(others) + 1
    for trial in others:
        assert max(trial.arm.layer_weights) == pytest.approx(1)
        assert min(trial.arm.layer_weights) >= LIGHTEST
