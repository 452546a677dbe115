"""Results with round numbers, as a bench would have found them."""

from purekv_cli.bench.arms import Arm
from purekv_cli.bench.measure import Limits
from purekv_cli.bench.result import Check, Costs, Result, Row, Times
from purekv_cli.method.config import MethodConfig

MIB = 2**20


def row(kind: str, times: list[tuple[float, float, float]], kept: int, peak: int, label: str = "8k") -> Row:
    """A row of (prefill, first token, per token) seconds and MiB of KV."""
    names = {"stock": "dense, transformers", "dense": "dense, purekv engine", "whole": "purekv 0.2"}
    arm = Arm(names.get(kind, "purekv 0.2, 0.2 from layer 4"), kind, MethodConfig())  # type: ignore[arg-type]
    costs = Costs(0.002, kept * MIB, peak * MIB, 3 * 1024 * MIB, 4e12, 0.005, sparse=False)
    tokens = {"8k": 8000, "32k": 32000}[label]
    return Row(label, tokens, arm, [Times(*run) for run in times], costs)


def result(*, broken: str = "") -> Result:
    """Stock 200 ms, engine 160, pruned 100, propagated 50; `broken` names the kind whose check is red."""
    checks = [Check("kernel attention", True, "fine", frozenset({"dense", "whole", "propagated"}))]
    if broken:
        checks.append(Check("pruned = masked", False, "differs by 0.3", frozenset({broken})))
    rows = [
        row("stock", [(0.19, 0.2, 0.04), (0.21, 0.22, 0.04)], 100, 100),
        row("dense", [(0.16, 0.168, 0.01)], 100, 100),
        row("whole", [(0.1, 0.105, 0.008)], 20, 25),
        row("propagated", [(0.05, 0.0525, 0.008)], 20, 24),
    ]
    return Result({"model": "shape 7b", "device": "a GPU", "dtype": "bfloat16"}, Limits(1e14, 2e12), checks, rows)
