"""Ranks with ties, against counting by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.calibrate.ranks import ranks, spearman

NUMBERS = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


def plain_ranks(values: list[int]) -> list[float]:
    """How many are smaller, and half of the others that are equal."""
    return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]


def plain_rho(a: list[int], b: list[int]) -> float:
    x, y = plain_ranks(a), plain_ranks(b)
    mean = (len(a) - 1) / 2
    over = sum((i - mean) * (j - mean) for i, j in zip(x, y, strict=True))
    under = math.sqrt(sum((i - mean) ** 2 for i in x) * sum((j - mean) ** 2 for j in y))
    return over / under if under else math.nan


@given(NUMBERS)
def test_equal_values_share_the_mean_of_their_places(values: list[int]) -> None:
    assert ranks(torch.tensor(values, dtype=torch.float32)).tolist() == plain_ranks(values)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=12))
def test_rho_is_pearsons_of_the_ranks(pairs: list[tuple[int, int]]) -> None:
    a, b = ([pair[n] for pair in pairs] for n in (0, 1))
    found = float(spearman(torch.tensor(a).float(), torch.tensor(b).float()))
    assert found == pytest.approx(plain_rho(a, b), abs=1e-5, nan_ok=True)


def test_a_textbook_example() -> None:
    """IQ and hours of television a week, rho = -29/165 (Wikipedia, Spearman's rank correlation coefficient)."""
    iq = torch.tensor([106, 100, 86, 101, 99, 103, 97, 113, 112, 110.0])
    hours = torch.tensor([7, 27, 2, 50, 28, 29, 20, 12, 6, 17.0])
    assert float(spearman(iq, hours)) == pytest.approx(-29 / 165)


def test_any_shape_is_ranked_along_its_last_axis() -> None:
    values = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    for row, ranked in zip(values.flatten(0, 1), ranks(values).flatten(0, 1), strict=True):
        assert ranked.tolist() == ranks(row).tolist()
