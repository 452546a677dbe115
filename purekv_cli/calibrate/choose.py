"""The rules by which measured figures become a preset.

Score layers (for purekv-paper): greedy, among the lower half of the layers. The first is the layer whose estimate, with
value norms and the question's rows, correlates best with the own mass of all layers that do not score themselves,
src(l) as the policy takes it; the one that raises the mean over the layers left most joins while that is GAIN or more,
up to MOST layers.

Propagation: of all layers and shares tried, the cheapest whose KL above that of the same budget without propagation,
plus one standard error over clips, is within the tolerance, and which loses at most LOST of the answers that are right
without it. Both must also be true of every one tried from the same layer or above with the same share or more, so that
none is taken by luck. "off" if there is none. Cost is the share of the layers' work on the prompt,
(P + share * (L - P)) / L.

ST-SpAttn: on under the same two conditions: dense against dense with it, and the budget with it against without.

Layer budgets: uniform, unless a shape of equal bytes lowers the KL by more than two standard errors, has no fewer right
answers, and lowers it by more than a tenth. That is lenient, for many shapes are tried on the same clips.

Fewer than two clips, or ENOUGH questions, decide nothing: propagation stays off, sparsity and budgets what they are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from torch import Tensor

from purekv_cli.calibrate.measure import Measured, Outcome
from purekv_cli.calibrate.trials import UNIFORM, Kind, Trial
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
    kl: float  # nats
    kept: float  # entries, share of the prefix's
    above: float  # KL above the trial it is held against
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
    propagate: Propagation | None
    sparse: bool | None  # None: not known, the default stays
    layer_budgets: str  # name of the shape


def costs(measured: Measured) -> list[Cost]:
    """Every trial, in order; each is held against the first, dense with sparse attention against dense without."""
    ours = {outcome.question: outcome for outcome in next(iter(measured.outcomes.values()))}
    return [
        _cost(trial, of_trial, {} if trial.arms[0].policy == "dense" else ours, measured.dense_right)
        for trial, of_trial in measured.outcomes.items()
    ]


def _cost(trial: Trial, found: Sequence[Outcome], base: Mapping[int, Outcome], dense_right: int) -> Cost:
    above: dict[int, list[float]] = {}
    for outcome in found:
        before = base[outcome.question].kl if base else 0.0
        above.setdefault(outcome.video, []).append(outcome.kl - before)
    by_clip = [fmean(each) for each in above.values()]
    right = sum(outcome.right for outcome in found)
    return Cost(
        trial=trial,
        asked=len(found),
        right=right,
        kl=fmean(outcome.kl for outcome in found),
        kept=fmean(outcome.kept for outcome in found),
        above=fmean(by_clip),
        error=stdev(by_clip) / math.sqrt(len(by_clip)) if len(by_clip) > 1 else math.inf,
        lost=(sum(base[outcome.question].right for outcome in found) if base else dense_right) - right,
    )


def choose(found: Sequence[Cost], valued: Tensor, tolerance: float) -> Choice:
    """
    Args:
        valued: [L, L], correlations of the question's rows with value norms.
        tolerance: KL in nats.
    """
    layers = len(valued)
    score_layers = best_score_layers(valued, low_layers(layers))
    return Choice(
        score_layers=score_layers,
        correlation=served(valued, score_layers),
        propagate=_cheapest(_of("propagation", found), layers, tolerance),
        sparse=_sparse(_of("sparse", found), tolerance),
        layer_budgets=_shape(found),
    )


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


def _shape(found: Sequence[Cost]) -> str:
    base = found[0].kl if found else 0.0
    shapes = [cost for cost in _of("layer budgets", found) if cost.decides and cost.lost <= 0]
    better = [cost for cost in shapes if cost.above < -max(2 * cost.error, 0.1 * base)]
    return min(better, key=lambda cost: cost.kl).trial.name if better else UNIFORM


def _of(kind: Kind, found: Sequence[Cost]) -> list[Cost]:
    return [cost for cost in found if cost.trial.kind == kind]
