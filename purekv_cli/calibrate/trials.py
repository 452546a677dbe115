"""What is tried out on every question: arms of the quality bench, in three rounds that build on each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from purekv_cli.eval.arms import OF_MODEL, Arm
from purekv_cli.method.config import CROWDED, MethodConfig

Kind = Literal[
    "starved", "bare", "score layer", "layer budgets", "preamble", "carry", "moved", "budget", "propagation", "sparse"
]
OURS, PAPER = "purekv", "purekv-paper"
BANDS = 8  # neighbouring layers whose budget changes together, at most so many groups of them
STARVED = 0.1  # of its video entries is left to a starved band
ALMOST = "0.999999"  # a budget that holds all video, and yet prunes: what else a layer drops goes
LEAST = 0.05  # weight of a layer that does without, against the one that can least
LIGHTEST = 0.01  # weight that a move ends at
FACTORS = (2.0, 0.5)  # a move's
CARRIES = (1.0, 0.3, 0.1, 0.0)
FLOW_LAYERS, FLOW_SHARES = 7, (0.5, 0.35, 0.2)


@dataclass(frozen=True)
class Dialled(Arm):
    """An arm with dials that otherwise the model's preset turns."""

    score_layers: tuple[int, ...] = (0, 1)
    layer_weights: tuple[float, ...] = ()
    preamble_layers: tuple[int, ...] | None = None
    preamble_share: float = CROWDED
    carry: float = 1.0

    @property
    def config(self) -> MethodConfig:
        return replace(super().config, **{name: getattr(self, name) for name in OF_MODEL})

    def of_model(self, name: str) -> MethodConfig:
        """What is to be calibrated is not taken from the preset that the model has."""
        return self.config


@dataclass(frozen=True, slots=True)
class Trial:
    """One row of the table of costs."""

    kind: Kind
    name: str
    arm: Dialled


def survey(layers: int, budget: float, low: int) -> list[Trial]:
    """First: which layers can do with few entries, and which without the text before the video, while all others keep
    everything; purekv-paper from each low layer."""
    found = []
    for band in bands(layers):
        weights = tuple(STARVED if layer in band else 1.0 for layer in range(layers))
        arm = Dialled(OURS, f"{sum(weights) / layers:.6f}", "known", layer_weights=weights)
        found.append(Trial("starved", _named(band), arm))
    for band in bands(layers):
        others = tuple(layer for layer in range(layers) if layer not in band)
        arm = Dialled(OURS, ALMOST, "known", preamble_layers=others, preamble_share=0.0)
        found.append(Trial("bare", _named(band), arm))
    for layer in range(low):
        arm = Dialled(PAPER, f"{budget:g}", "known", score_layers=(layer,))
        found.append(Trial("score layer", f"layer {layer}", arm))
    return found


def shapes(layers: int, harm: Sequence[float], budget: float, present: Sequence[float] = ()) -> list[Trial]:
    """Second: how the layers may share a budget. Equal ones come first; the others weigh by the harm of starving.

    Args:
        harm: distance of every band, starved.
        present: weights that the model's preset has already; empty: none.
    """
    of_layer = [distance for band, distance in zip(bands(layers), harm, strict=True) for _ in band]
    most = max(of_layer, default=0.0) or 1.0
    shaped = {"equal": [], "falling": _ramp(layers), "rising": _ramp(layers)[::-1]}
    for root, name in ((1, "harm"), (2, "square root of harm"), (3, "third root of harm"), (4, "fourth root of harm")):
        shaped[name] = [round(max(LEAST, (max(0.0, distance) / most) ** (1 / root)), 2) for distance in of_layer]
    if len(present) == layers:
        shaped["as in its preset"] = list(present)
    return [
        Trial(
            "layer budgets",
            name,
            Dialled(OURS, f"{budget:g}", "known", layer_weights=tuple(weights)),
        )
        for name, weights in shaped.items()
    ]


def preambles(layers: int, harm: Sequence[float], ours: Dialled) -> list[Trial]:
    """Also second: the text before the video in all layers, in ever fewer of those that need it most, in none.

    Args:
        harm: distance of every band without it.
    """
    found = [Trial("preamble", "in all layers", ours)]
    order = sorted(bands(layers), key=lambda band: -harm[bands(layers).index(band)])
    for count in reversed(range(len(order))):
        kept = tuple(sorted(layer for band in order[:count] for layer in band))
        name = f"in {', '.join(map(str, kept))}" if count else "in none"
        found.append(Trial("preamble", name, replace(ours, preamble_layers=kept)))
    return found


def moves(layers: int, weights: tuple[float, ...], ours: Dialled) -> list[Trial]:
    """Also second: the weights as they are, then each band's twice and half as heavy."""
    tried = [("as they are", weights)]
    for band in bands(layers):
        for factor in FACTORS:
            changed = moved(weights, [(band, factor)])
            if changed not in [known for _, known in tried]:
                tried.append((f"{_named(band)} x {factor:g}", changed))
    return [Trial("moved", name, replace(ours, layer_weights=each)) for name, each in tried]


def moved(weights: Sequence[float], changes: Sequence[tuple[range, float]]) -> tuple[float, ...]:
    """Bands times their factors; the heaviest layer weighs 1, none less than LIGHTEST."""
    heavy = list(weights)
    for band, factor in changes:
        for layer in band:
            heavy[layer] *= factor
    most = max(heavy)
    return tuple(round(max(LIGHTEST, weight / most), 3) for weight in heavy)


def carries(ours: Dialled) -> list[Trial]:
    """Also second: how loud lower layers speak in a layer's score, in full first."""
    return [Trial("carry", f"{carry:g}", replace(ours, carry=carry)) for carry in CARRIES]


def dials(layers: int, budgets: Sequence[float], policies: Sequence[str], ours: Dialled) -> list[Trial]:
    """Third, with what was found of the layers: what policies, propagation and sparse attention cost.

    Args:
        budgets: shares of the cache. Ours at the first one, the preset's, comes first.
    """
    first = f"{budgets[0]:g}"
    ours = replace(ours, budget=first)
    found = [
        Trial("budget", f"{policy} {budget:g}", replace(ours, policy=policy, budget=f"{budget:g}"))
        for policy in dict.fromkeys((OURS, *policies))
        for budget in budgets
    ]
    found += [
        Trial("propagation", way, replace(ours, propagate=way))
        for layer in flow_layers(layers)
        for share in FLOW_SHARES
        if share >= budgets[0]
        for way in [f"{layer}:{share:g}"]
    ]
    found.append(Trial("sparse", "dense", Dialled("dense", "1", "unknown", sparse=True)))
    found.append(Trial("sparse", f"{OURS} {first}", replace(ours, sparse=True)))
    return found


def bands(layers: int) -> list[range]:
    """The layers in groups of neighbours, each alone in a small model."""
    count = min(BANDS, layers)
    return [range(band * layers // count, (band + 1) * layers // count) for band in range(count)]


def flow_layers(layers: int) -> list[int]:
    """Layers that propagation may begin at, so many spread evenly; from the last one nothing would be saved."""
    inner = range(1, max(2, layers - 1))
    count = min(FLOW_LAYERS, len(inner))
    return [inner[round(at * (len(inner) - 1) / max(1, count - 1))] for at in range(count)]


def _named(band: range) -> str:
    return f"layer {band[0]}" if len(band) == 1 else f"layers {band[0]} to {band[-1]}"


def _ramp(layers: int) -> list[float]:
    return [round(1.5 - layer / max(1, layers - 1), 2) for layer in range(layers)]
