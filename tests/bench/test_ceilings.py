"""The limits page's arithmetic: known totals, and gains that cannot exceed what the mode leaves out."""

import pytest

from purekv_cli.bench.ceilings import seconds, sizes, table
from purekv_cli.bench.shapes import SHAPES
from purekv_cli.method.config import MethodConfig

DENSE = MethodConfig(policy="dense")


def test_the_shape_counts_the_released_models_parameters() -> None:
    model = sizes(SHAPES["7b"])
    assert model.layers * model.linear == pytest.approx(6.525e9, rel=1e-3)  # Qwen2.5-VL-7B without its tables
    assert model.head == 3584 * 152064


def test_dense_time_is_two_products_and_the_triangle_of_pairs() -> None:
    model, tokens = sizes(SHAPES["7b"]), 1000
    matrix = 2 * (model.layers * model.linear * tokens + model.head)
    pairs = 4 * model.layers * 28 * 128 * tokens * (tokens + 1) / 2
    assert seconds(model, DENSE, tokens, 1e15, 1e12, 1.0, trims=False) == pytest.approx(matrix / 1e15 + pairs / 1e12)


def test_sparse_attention_cannot_beat_free_attention_and_propagation_can() -> None:
    rows = [line.split("|")[2:-1] for line in table(SHAPES["7b"], [8192, 131072], 750e12, 560e12, 0.28)[2:]]
    for _dense, sparse, free, flowing, both, wider in ([float(cell.strip(" x")) for cell in row] for row in rows):
        assert 1 < sparse < free
        assert flowing < both
        assert wider < both
    assert float(rows[0][2].strip(" x")) < 1.3  # at 8K the matrix products are nearly all there is
