"""The gate bites: whatever is broken, some check turns red and says what."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from purekv_cli.bench import method_checks
from purekv_cli.bench.gate import OURS, held
from purekv_cli.bench.kernel_checks import kernel_checks
from purekv_cli.bench.long_checks import long_checks
from purekv_cli.bench.problem import synthetic
from purekv_cli.bench.result import Check
from purekv_cli.bench.shapes import build
from purekv_cli.bench.work import Sizes
from purekv_cli.kernels import attention, attention_mass, compact, fused, sparse_prefill
from purekv_cli.method.config import SparseConfig
from purekv_cli.method.pattern import build as build_pattern

CPU = torch.device("cpu")


def red(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if not check.ok]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kernels_are_green_as_they_are(dtype: torch.dtype) -> None:
    assert red(list(kernel_checks(CPU, dtype))) == []


def test_the_method_is_green_as_it_is() -> None:
    checks = list(method_checks.method_checks(CPU, ("purekv", "purekv-paper", "random", "dense")))
    assert red(checks) == []
    assert len(checks) == 2 + 3 * 3
    assert any("propagation" in check.name for check in checks)


def scaled(op: Callable[..., Any]) -> Callable[..., Any]:
    """The same operation, 3 % off."""

    def off(*args: Any, **kwargs: Any) -> Any:
        out = op(*args, **kwargs)
        if isinstance(out, tuple):
            return tuple(part if part is None else part * 1.03 for part in out)
        return out * 1.03

    return off


@pytest.mark.parametrize(
    ("module", "name", "check"),
    [
        (attention, "attention", "attention"),
        (sparse_prefill, "sparse_prefill", "sparse prefill"),
        (attention_mass, "row_mass", "attention mass"),
        (compact, "compact", "compact"),
        (fused, "silu_mul", "norms and SwiGLU"),
        (fused, "rotate", "rotary"),
    ],
)
def test_a_kernel_that_is_off_is_found(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, check: str) -> None:
    monkeypatch.setattr(module, name, scaled(getattr(module, name)))
    assert red(list(kernel_checks(CPU, torch.bfloat16))) == [f"kernel {check}"]


def test_a_kernel_that_raises_is_red_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("no such tile\nmore")

    monkeypatch.setattr(compact, "compact", broken)
    failed = [check for check in kernel_checks(CPU, torch.float32) if not check.ok]
    assert [check.detail for check in failed] == ["ValueError: no such tile"]
    assert "whole" in failed[0].covers
    assert "dense" not in failed[0].covers


def test_keeping_other_entries_than_the_cache_says_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = compact.compact

    def shifted(key: Any, value: Any, positions: Any, **more: Any) -> Any:
        return real(key, value, (positions - 1).clamp(min=0), **more)

    monkeypatch.setattr("purekv_cli.runtime.fast_prefill.compact", shifted)
    found = red(list(method_checks.method_checks(CPU, ("purekv",))))
    assert "pruned = masked, purekv" in found
    assert "greedy tokens, dense engine = stock" not in found


def test_pruning_nothing_is_no_way_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purekv_cli.runtime.prompt.Prompt.entries", lambda self, *_: [self.length])
    found = list(method_checks.method_checks(CPU, ("purekv",)))
    assert any("nothing was pruned" in check.detail for check in found)


def test_a_dense_engine_with_other_tokens_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import purekv_cli.runtime.fast_prefill as home

    monkeypatch.setattr(home.fused, "silu_mul", lambda x: fused.rms_norm(x, x[0], 1e-6)[:, : x.shape[1] // 2])
    assert "greedy tokens, dense engine = stock" in red(list(method_checks.method_checks(CPU, ())))


def test_not_a_number_is_red() -> None:
    assert not held("nan", OURS, 1e-3, lambda: float("nan")).ok


@pytest.fixture(scope="module")
def long() -> tuple[Any, Any]:
    model = build("tiny", CPU, torch.float32)
    return synthetic(model, "700", steps=10, grid=(6, 10)), Sizes.of(model)


PATTERN = SparseConfig(min_tokens=1, tile=(3, 5), recent=2)


def test_long_kernels_are_green_as_they_are(long: tuple[Any, Any]) -> None:
    checks = list(long_checks(*long, PATTERN))
    assert red(checks) == []
    assert [check.name for check in checks] == [
        f"kernel {name} at 696 tokens" for name in ("attention", "attention mass", "sparse prefill")
    ]
    assert len(list(long_checks(*long, None))) == 2


def test_a_pattern_that_reads_other_keys_at_length_is_found(
    long: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sparse_prefill.sparse_prefill
    other = build_pattern(long[0].layout, SparseConfig(min_tokens=1, tile=(3, 5), recent=0))

    def wrong(query: Any, key: Any, value: Any, runs: Any, scaling: float) -> Any:
        back = runs.key_order.argsort()
        return real(query, *(t[:, :, back][:, :, other.key_order] for t in (key, value)), other, scaling)

    monkeypatch.setattr(sparse_prefill, "sparse_prefill", wrong)
    assert red(list(long_checks(*long, PATTERN))) == ["kernel sparse prefill at 696 tokens"]


def test_dense_attention_that_sees_too_much_at_length_is_found(
    long: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = attention.attention
    monkeypatch.setattr(attention, "attention", lambda *a, **k: real(*a, **{**k, "causal": False}))
    assert red(list(long_checks(*long, None))) == ["kernel attention at 696 tokens"]
