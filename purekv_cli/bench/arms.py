"""Which rows a bench has at every length: the baseline, our engine without pruning, and every way of pruning."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from purekv_cli.bench.request import Request
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig

Kind = Literal["stock", "dense", "whole", "propagated"]  # what a row exercises, and so which checks it stands behind


@dataclass(frozen=True, slots=True)
class Arm:
    """One row of every length."""

    name: str
    kind: Kind
    config: MethodConfig

    @property
    def is_stock(self) -> bool:
        """Whether it is the baseline that ratios refer to."""
        return self.kind == "stock"


def arms(request: Request, base: MethodConfig) -> tuple[Arm, ...]:
    """The rows, baseline first.

    Args:
        base: the preset of the model; policy, budget and propagation come from the request.
    """
    dense = replace(
        base, policy="dense", budget=Budget("fraction", 1.0), propagate=None, sparse=replace(base.sparse, enabled=False)
    )
    rows = [Arm("dense, transformers", "stock", dense), Arm("dense, purekv engine", "dense", dense)]
    return (*rows, *_pruned(request, base))


def _pruned(request: Request, base: MethodConfig) -> Iterator[Arm]:
    for policy in request.policies:
        if policy == "dense":
            continue
        for budget in request.budgets:
            config = replace(base, policy=policy, budget=budget, propagate=None, seed=request.seed)
            yield Arm(f"{policy} {budget}", "whole", config)
            for way in request.propagations:
                name = f"{policy} {budget}, {way.share:g} from layer {way.layer}"
                yield Arm(name, "propagated", replace(config, propagate=way))
