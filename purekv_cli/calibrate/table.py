"""Measured costs as aligned lines, for the terminal and for a preset's comments; the matrix in block characters."""

import math
from collections.abc import Sequence

from purekv_cli.calibrate.choose import Cost
from purekv_cli.calibrate.correlation import Matrix

_BLOCKS = " ░▒▓█"
_TITLES = {
    "budget": "Policies at budgets, question known",
    "score layer": "purekv-paper from one score layer, at the first budget",
    "propagation": "Propagation LAYER:SHARE, at the first budget",
    "sparse": "ST-SpAttn in prefill",
    "layer budgets": "Budgets by layer, equal bytes",
}


def rows(found: Sequence[Cost]) -> list[str]:
    """One line a trial under a heading for each kind."""
    lines: list[str] = []
    kind = None
    for cost in found:
        if cost.trial.kind != kind:
            kind = cost.trial.kind
            above = "above dense" if kind == "sparse" else "above the first row"
            lines.append(f"{_TITLES[kind]:<54}  right      KL in nats  {above} (+- one standard error)")
        error = f" +- {cost.error:.4f}" if math.isfinite(cost.error) else ""
        right = f"{cost.right}/{cost.asked}"
        lines.append(f"  {cost.trial.name:<52}  {right:<9}  {cost.kl:<10.4f}  {cost.above:+.4f}{error}")
    return lines


def blocks(matrix: Matrix) -> list[str]:
    """Score layers downwards, the layers they are to serve across; darker is better, to a rank correlation of 1."""
    size = len(matrix.valued)
    head = "".join(f"{layer:<2}" if size <= 10 or layer % 5 == 0 else "  " for layer in range(size))
    lines = [
        f"rank correlation with value norms, {matrix.observe} rows (down: score layer, across: layer)",
        f"    {head}",
    ]
    for layer, row in enumerate(matrix.valued.tolist()):
        cells = "".join(_BLOCKS[_step(rho)] * 2 for rho in row)
        lines.append(f"{layer:>3} {cells}")
    return lines


def _step(rho: float) -> int:
    return 0 if math.isnan(rho) else min(len(_BLOCKS) - 1, max(0, round(rho * (len(_BLOCKS) - 1))))
