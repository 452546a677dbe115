"""The rules by which measured figures become a preset.

Score layers (for purekv-paper): greedy, among the lower half of the layers. The first is the layer whose estimate, with
value norms and the question's rows, correlates best with the own mass of all layers that do not score themselves,
src(l) as the policy takes it; the one that raises the mean over the layers left most joins while that is GAIN or more,
up to MOST layers.

Propagation: of all layers and shares tried, the cheapest whose distance above that of the same budget without
propagation, plus one standard error over clips, is within the tolerance, and which loses at most LOST of the answers
that are right without it. Both must also be true of every one tried from the same layer or above with the same share or
more, so that none is taken by luck. "off" if there is none. Cost is the share of the layers' work on the prompt,
(P + share * (L - P)) / L.

ST-SpAttn: on under the same two conditions: dense against dense with it, and the budget with it against without.

Layer weights: chosen first, at the smallest budget, where layers compete most. Each layer is starved while the others
keep everything; the distance that this costs, or a root of it, is a layer's weight, LEAST being the smallest. Of these
and two ramps the nearest to dense at equal bytes is taken, if it beats equal budgets by more than two standard errors
and a tenth, and loses no right answer; else the layers stay equal. By the same rule the text before the video is left
to fewer layers (those first without it that miss it least while everything else stays), and `carry` is turned down.
Then the weights are moved (`descent.py`). All other dials are measured with these.

Fewer than two clips, or ENOUGH questions, decide nothing: no propagation, equal layers, sparsity as it is by default.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from torch import Tensor

from purekv_cli.calibrate.measure import Measured, Outcome
from purekv_cli.calibrate.trials import Dialled, Kind, Trial
from purekv_cli.method.config import Propagation

GAIN, MOST = 0.02, 3  # of the mean correlation; score layers
LOST = 0.01  # of the questions
ENOUGH = 20  # questions: if none of so many is lost, fewer than 15 % are (95 %)


@dataclass(frozen=True, slots=True)
class Cost:
    """One trial over all questions that it could be tried on."""

    trial: Trial
    asked: int
    right: int
    distance: float  # from dense, mean
    kept: float  # entries, share of the prefix's
    above: float  # distance above that of the trial it is held against, or of dense
    error: float  # standard error of that over clips; inf for fewer than two
    lost: int  # right answers fewer than that trial's

    @property
    def decides(self) -> bool:
        """Whether enough was asked."""
        return self.asked >= ENOUGH and math.isfinite(self.error)

    def within(self, tolerance: float) -> bool:
        """Whether this may be switched on."""
        return self.decides and self.above + self.error <= tolerance and self.lost <= LOST * self.asked


@dataclass(frozen=True, slots=True)
class Choice:
    """What the preset says."""

    score_layers: tuple[int, ...]
    correlation: float  # mean over layers of the estimate from these
    layer_weights: tuple[float, ...]  # empty: equal
    preamble_layers: tuple[int, ...] | None  # None: all
    carry: float
    propagate: Propagation | None
    sparse: bool | None  # None: not known, the default stays


def costs(measured: Measured, first_is_base: bool = True) -> list[Cost]:
    """Every trial, in order, held against the first one or else dense; dense with sparse attention against dense."""
    every = measured.outcomes
    ours = {outcome.question: outcome for outcome in next(iter(every.values()), [])} if first_is_base else {}
    found = []
    for trial, outcomes in every.items():
        base = {} if trial.arm.policy == "dense" else ours
        if both := [outcome for outcome in outcomes if not base or outcome.question in base]:
            found.append(_cost(trial, both, base, measured.dense_right))
    return found


def _cost(trial: Trial, found: Sequence[Outcome], base: Mapping[int, Outcome], dense_right: int) -> Cost:
    above: dict[int, list[float]] = {}
    for outcome in found:
        before = base[outcome.question].distance if base else 0.0
        above.setdefault(outcome.video, []).append(outcome.distance - before)
    by_clip = [fmean(each) for each in above.values()]
    right = sum(outcome.right for outcome in found)
    return Cost(
        trial=trial,
        asked=len(found),
        right=right,
        distance=fmean(outcome.distance for outcome in found),
        kept=fmean(outcome.kept for outcome in found),
        above=fmean(by_clip),
        error=stdev(by_clip) / math.sqrt(len(by_clip)) if len(by_clip) > 1 else math.inf,
        lost=(sum(base[outcome.question].right for outcome in found) if base else dense_right) - right,
    )


def choose(found: Sequence[Cost], valued: Tensor, ours: Dialled, tolerance: float) -> Choice:
    """
    Args:
        found: of the third round.
        valued: [L, L], correlations of the question's rows with value norms.
        ours: of the second.
        tolerance: of distance.
    """
    layers = len(valued)
    score_layers = best_score_layers(valued, low_layers(layers))
    return Choice(
        score_layers=score_layers,
        correlation=served(valued, score_layers),
        layer_weights=ours.layer_weights,
        preamble_layers=ours.preamble_layers,
        carry=ours.carry,
        propagate=_cheapest(_of("propagation", found), layers, tolerance),
        sparse=_sparse(_of("sparse", found), tolerance),
    )


def clearly_best(found: Sequence[Cost]) -> Dialled:
    """The arm of the lowest distance that is clearly below that of the first, or the first."""
    tried = [cost for cost in found[1:] if cost.decides and cost.lost <= 0]
    better = [cost for cost in tried if cost.above < -max(2 * cost.error, 0.1 * found[0].distance)]
    return min(better, key=lambda cost: cost.distance, default=found[0]).trial.arm


def low_layers(layers: int) -> int:
    """Score layers are looked for under this one."""
    return max(1, layers // 2)


def best_score_layers(valued: Tensor, low: int) -> tuple[int, ...]:
    """Greedy choice among the layers under `low`."""
    chosen: tuple[int, ...] = (max(range(low), key=lambda layer: served(valued, (layer,))),)
    while len(chosen) < min(MOST, low):
        wider = [tuple(sorted((*chosen, layer))) for layer in range(low) if layer not in chosen]
        gains = {layers: served(valued, layers) - served(valued, chosen, spared=layers) for layers in wider}
        best = max(wider, key=lambda layers: gains[layers])
        if gains[best] < GAIN:
            break
        chosen = best
    return chosen


def served(valued: Tensor, score_layers: Sequence[int], spared: Sequence[int] = ()) -> float:
    """Mean of rho[src(l), l] over the layers that do not score, and are not `spared`.

    Layers below the first score layer wait for it.
    """
    others = [layer for layer in range(len(valued)) if layer not in {*score_layers, *spared}]
    sources = [max((s for s in score_layers if s <= layer), default=min(score_layers)) for layer in others]
    rhos = [float(valued[source, layer]) for source, layer in zip(sources, others, strict=True)]
    return fmean(0.0 if math.isnan(rho) else rho for rho in rhos) if rhos else 0.0


def work(propagate: Propagation, layers: int) -> float:
    """Share of the layers' work on the prompt that is left."""
    return (propagate.layer + propagate.share * (layers - propagate.layer)) / layers


def _cheapest(tried: Sequence[Cost], layers: int, tolerance: float) -> Propagation | None:
    fine = {p: cost.within(tolerance) for cost in tried if (p := Propagation.parse(cost.trial.name))}
    sound = [
        p for p in fine if all(ok for other, ok in fine.items() if other.layer >= p.layer and other.share >= p.share)
    ]
    return min(sound, key=lambda p: work(p, layers), default=None)


def _sparse(tried: Sequence[Cost], tolerance: float) -> bool | None:
    if not tried or not all(cost.decides for cost in tried):
        return None
    return all(cost.within(tolerance) for cost in tried)


def _of(kind: Kind, found: Sequence[Cost]) -> list[Cost]:
    return [cost for cost in found if cost.trial.kind == kind]
