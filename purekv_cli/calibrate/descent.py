"""Layer weights moved step by step downhill: a band twice or half as heavy, while answers come closer to dense.

Every step tries each move alone, and goes on from all that helped together; where together they are no better than the
best of them alone, from that one. What was tried and is nearest to dense is taken. No move has to be clearly better, as
the shape that they begin with had to be: moves are many and small, and are judged on the same answers.
"""

from collections.abc import Callable, Sequence

from purekv_cli.calibrate.choose import Cost
from purekv_cli.calibrate.trials import FACTORS, Dialled, Trial, bands, moved, moves

Weights = tuple[float, ...]


def descend(
    layers: int, ours: Dialled, steps: int, measure: Callable[[Sequence[Trial]], list[Cost]]
) -> tuple[Weights, list[Cost]]:
    """The best weights found, and the costs of where every step began.

    Args:
        ours: what the weights are tried with, and those to begin with; empty: equal ones.
        steps: at most so many; none without enough questions.
        measure: what trials cost, the first of them what the others are held against.
    """
    here: Weights = ours.layer_weights or (1.0,) * layers
    best, lowest, path = ours.layer_weights, float("inf"), []
    begun: set[Weights] = set()
    for _ in range(steps):
        if here in begun:
            break
        begun.add(here)
        found = measure(moves(layers, here, ours))
        if not found[0].decides:
            break
        path.append(found[0])
        if here != best and found[0].distance >= lowest:  # together they are no better than the best move alone
            here = best
            continue
        best, lowest = here, found[0].distance
        helped = [cost for cost in found[1:] if cost.above < 0 and cost.lost <= 0]
        if not helped:
            break
        single = min(helped, key=lambda cost: cost.distance)
        best, lowest = single.trial.arm.layer_weights, single.distance
        here = _together(layers, here, helped)
    return best, path


def _together(layers: int, start: Weights, helped: Sequence[Cost]) -> Weights:
    """Of a band's two moves the better one."""
    distance = {cost.trial.arm.layer_weights: cost.distance for cost in helped}
    changes = []
    for band in bands(layers):
        tried = [
            (distance[after], factor) for factor in FACTORS if (after := moved(start, [(band, factor)])) in distance
        ]
        if tried:
            changes.append((band, min(tried)[1]))
    return moved(start, changes)
