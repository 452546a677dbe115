"""What is tried out on every question: arms of the quality bench, some put together layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from purekv_cli.eval.arms import Arm
from purekv_cli.method.config import MethodConfig

Kind = Literal["budget", "score layer", "propagation", "sparse", "layer budgets"]
OURS, PAPER = "purekv", "purekv-paper"
UNIFORM = "uniform"
BANDS = 8  # neighbouring layers that change their budget together, at most so many groups of them
FLOW_LAYERS, FLOW_SHARES = 7, (0.5, 0.35, 0.2)


@dataclass(frozen=True)
class Scored(Arm):
    """purekv-paper with score layers of its own."""

    score_layers: tuple[int, ...] = (0, 1)

    @property
    def config(self) -> MethodConfig:
        return replace(super().config, score_layers=self.score_layers)


@dataclass(frozen=True, slots=True)
class Trial:
    """One row of the table of costs."""

    kind: Kind
    name: str
    arms: tuple[Arm, ...]  # one for all layers, or one a layer: each layer keeps what its own arm would


def trials(layers: int, budgets: Sequence[float], policies: Sequence[str], low: int) -> list[Trial]:
    """All of them; the first is ours at the first budget, which the others are held against.

    Args:
        budgets: shares of the cache; the first one is the preset's.
        low: score layers are looked for under this one.
    """
    first = budgets[0]
    found = [
        Trial("budget", f"{policy} {budget:g}", (Arm(policy, f"{budget:g}", "known"),))
        for policy in dict.fromkeys((OURS, *policies))
        for budget in budgets
    ]
    found += [
        Trial("score layer", f"layer {layer}", (Scored(PAPER, f"{first:g}", "known", score_layers=(layer,)),))
        for layer in range(low)
    ]
    found += [
        Trial("propagation", f"{layer}:{share:g}", (Arm(OURS, f"{first:g}", "known", f"{layer}:{share:g}"),))
        for layer in flow_layers(layers)
        for share in FLOW_SHARES
        if share >= first
    ]
    found.append(Trial("sparse", "dense", (Arm("dense", "1", "unknown", None, True),)))
    found.append(Trial("sparse", f"{OURS} {first:g}", (Arm(OURS, f"{first:g}", "known", None, True),)))
    return found + layer_budgets(layers, first)


def flow_layers(layers: int) -> list[int]:
    """Layers that propagation may begin at: all of a small model, so many spread evenly over a large one."""
    count = min(FLOW_LAYERS, layers - 1)
    return sorted({round((at + 1) * layers / (count + 1)) for at in range(count)})


def layer_budgets(layers: int, mean: float) -> list[Trial]:
    """Shapes of equal bytes: falling, rising, and a band of layers with half as much or half as much again."""
    if layers < 2:
        return []
    ramp = [1.5 - layer / (layers - 1) for layer in range(layers)]
    shapes = {"falling": ramp, "rising": ramp[::-1]}
    bands = min(BANDS, layers)
    for band in range(bands):
        inside = range(band * layers // bands, (band + 1) * layers // bands)
        for name, factor in (("less", 0.5), ("more", 1.5)):
            rest = (layers - factor * len(inside)) / (layers - len(inside))
            where = f"{inside[0]}" if len(inside) == 1 else f"{inside[0]}-{inside[-1]}"
            shapes[f"{name} in {where}"] = [factor if layer in inside else rest for layer in range(layers)]
    return [
        Trial("layer budgets", name, tuple(Arm(OURS, f"{min(1.0, mean * factor):.6f}", "known") for factor in factors))
        for name, factors in shapes.items()
    ]
