"""Measured costs as aligned lines, for the terminal and for a preset's comments; the matrix in block characters."""

import math
from collections.abc import Sequence

from purekv_cli.calibrate.choose import Cost
from purekv_cli.calibrate.correlation import Matrix
from purekv_cli.calibrate.trials import Kind

_BLOCKS = " ░▒▓█"
_TITLES: dict[Kind, tuple[str, str]] = {
    "starved": ("A tenth of the video in these layers, all in others", "dense"),
    "bare": ("No text before the video in these layers, all in others", "dense"),
    "score layer": ("purekv-paper from one score layer", "dense"),
    "layer budgets": ("Layers share the smallest budget", "equal"),
    "preamble": ("Text before the video at the smallest budget", "in all layers"),
    "moved": ("Layers' weights, moved step by step", "itself"),
    "carry": ("Share of the lower layers' scores in a layer's own", "all of them"),
    "budget": ("Policies at budgets, question known", "the first row"),
    "propagation": ("Propagation LAYER:SHARE", "the first row above"),
    "sparse": ("ST-SpAttn in prefill", "the same without"),
}


def rows(found: Sequence[Cost]) -> list[str]:
    """One line a trial under a heading for each kind."""
    lines: list[str] = []
    kind: Kind | None = None
    for cost in found:
        if cost.trial.kind != kind:
            kind = cost.trial.kind
            title, base = _TITLES[kind]
            lines.append(f"{title:<54}  right      distance    above {base} (+- one standard error)")
        error = f" +- {cost.error:.4f}" if math.isfinite(cost.error) else ""
        right = f"{cost.right}/{cost.asked}"
        lines.append(f"  {cost.trial.name:<52}  {right:<9}  {cost.distance:<10.4f}  {cost.above:+.4f}{error}")
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
