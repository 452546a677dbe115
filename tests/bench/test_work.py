"""Arithmetic and traffic of a run, counted by hand on a small decoder."""

import pytest
import torch

from purekv_cli.bench.compare import spread_over
from purekv_cli.bench.shapes import SHAPES, build
from purekv_cli.bench.work import Sizes
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig, Propagation
from purekv_cli.method.layout import VideoLayout

SIZES = Sizes(layers=4, heads=2, kv_heads=1, head_dim=8, linear=1000, kv_linear=100, head=500, bytes_per_value=2)
DENSE = MethodConfig(policy="dense")


def test_dense() -> None:
    matrices = 4 * 2 * 1000 * 10
    pairs = 4 * (4 * 2 * 8) * 55
    assert SIZES.prefill_flops(DENSE, 10, 2) == matrices + pairs + 2 * 500


def test_a_sparse_pattern_takes_its_share_of_the_pairs() -> None:
    saved = SIZES.prefill_flops(DENSE, 10, 2) - SIZES.prefill_flops(DENSE, 10, 2, density=0.5)
    assert saved == 4 * (4 * 2 * 8) * 55 / 2


def test_propagation_counts_the_tokens_that_flow() -> None:
    config = MethodConfig(budget=Budget("fraction", 0.2), propagate=Propagation(2, 0.4))
    layer_0 = 2 * 1000 * 10 + 64 * 55
    layer_1 = 2 * (100 * 10 + 900 * 4) + 64 * 55 * 0.4  # keys and values of all, the rest for those that flow
    above = 2 * (2 * 1000 * 4 + 64 * 10)
    assert SIZES.prefill_flops(config, 10, 1) == pytest.approx(layer_0 + layer_1 + above + 1000)


def test_a_last_layer_for_the_last_token_alone() -> None:
    whole = SIZES.prefill_flops(DENSE, 10, 2)
    assert whole - SIZES.prefill_flops(DENSE, 10, 2, trims=True) == pytest.approx(2 * 900 * 9 + 64 * 55 * 0.9)


def test_the_decode_floor_reads_weights_and_cache_once() -> None:
    assert SIZES.decode_floor(kv_bytes=1000, bandwidth=1e6) == pytest.approx(((4 * 1000 + 500) * 2 + 1000) / 1e6)


def test_sizes_come_from_the_tensors() -> None:
    model = build("tiny", torch.device("cpu"), torch.float32)
    sizes = Sizes.of(model)
    assert sizes.layers * sizes.linear + 2 * sizes.head == SHAPES["tiny"].parameters
    assert sizes.kv_linear == 2 * 64 * 2 * 16
    assert sizes.weight_bytes == 4 * (sizes.layers * sizes.linear + sizes.head)
    assert sizes.kv_bytes(10) == 2 * 6 * 2 * 16 * 10 * 4


def test_tokens_that_flow_may_read_by_a_pattern_of_their_own() -> None:
    config = MethodConfig(budget=Budget("fraction", 0.2), propagate=Propagation(2, 0.4))
    assert SIZES.flow(config, 10, 1) == 4
    assert SIZES.flow(DENSE, 10, 1) == 10
    saved = SIZES.prefill_flops(config, 10, 1) - SIZES.prefill_flops(config, 10, 1, above=0.5)
    assert saved == pytest.approx(2 * 64 * 10 / 2)  # two layers of four tokens


def test_a_stand_in_for_those_that_flow_holds_the_text_and_is_spread() -> None:
    layout = VideoLayout(30, torch.arange(4, 24), (5, 2, 2))
    chosen = spread_over(layout, 15).tolist()
    assert len(chosen) == 15
    assert set(range(4)) | set(range(24, 30)) <= set(chosen)
    assert chosen[4:9] == [4, 9, 14, 18, 23]
