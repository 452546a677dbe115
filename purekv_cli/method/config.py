"""The dials of the method: one frozen value from the command line down to the attention layers."""

from dataclasses import dataclass, field
from typing import Literal

from purekv_cli.errors import UsageError
from purekv_cli.method.budget import Budget

CROWDED = 0.1  # default of `preamble_share`
Observe = Literal["question", "template", "video", "all"]


@dataclass(frozen=True, slots=True)
class SparseConfig:
    """ST-SpAttn: which keys a video query reads in prefill."""

    min_tokens: int = 8192  # below this many prompt tokens dense attention is as fast and exact
    enabled: bool = True
    tile: tuple[int, int] = (8, 16)  # rows, columns of a spatial tile, in merged tokens
    recent: int | None = None  # latest frames whose tile is read, older ones at a growing stride; None: all frames
    content: float = 0.1  # share of video tokens, those that changed most, that every later query reads
    first_frame: bool = True  # with `recent`: the first frame's tile is read too


@dataclass(frozen=True, slots=True)
class Propagation:
    """Above some layer only the tokens flow on that some KV head will keep: the rest of the prompt ends there."""

    layer: int  # P: the layers below it see the whole prompt
    share: float  # of the prompt's tokens that flow through the layers from P on; at least what the budget keeps

    def __post_init__(self) -> None:
        if self.layer < 1 or not 0 < self.share <= 1:
            raise UsageError(
                f"cannot let {self.share:g} of the tokens flow from layer {self.layer} on",
                "Give a layer from 1 on and a share above 0 and up to 1, such as 4:0.35.",
            )

    @classmethod
    def parse(cls, text: str) -> "Propagation | None":
        """From "4:0.35" (layer and share) or "off"."""
        if text.strip().lower() == "off":
            return None
        layer, _, share = text.partition(":")
        try:
            return cls(int(layer), float(share))
        except ValueError:
            raise UsageError(
                f"cannot read the propagation {text!r}", "Write LAYER:SHARE, such as 4:0.35, or off."
            ) from None


@dataclass(frozen=True, slots=True)
class MethodConfig:
    """A policy, its budget and the sparse pattern. Presets are these values in a file."""

    policy: str = "purekv"
    budget: Budget = field(default_factory=lambda: Budget("fraction", 0.2))
    observe: Observe = "question"  # whose attention is read: see `method.importance.observed_rows`
    score_layers: tuple[int, ...] = (0, 1)  # of purekv-paper: the layers that compute attention mass
    one_set: bool = False  # of purekv: one set for all layers; better by little, but holds full KV until the last layer
    normalise: bool = False  # of purekv: every layer weighs the same in the maximum, a guard against attention sinks
    carry: float = 1.0  # of purekv: how loud the layers below speak in a layer's score, where the question is read
    layer_weights: tuple[float, ...] = ()  # of purekv: how a model's layers share the budget; empty: equally
    preamble_layers: tuple[int, ...] | None = None  # of purekv: layers that keep the text before the video; the others
    # keep its first token; None: all layers keep it
    preamble_share: float = CROWDED  # of the budget: no layer drops that text where it is less
    sparse: SparseConfig = field(default_factory=SparseConfig)
    propagate: Propagation | None = None  # None: every token flows through all layers
    chunk: int | None = None  # prompt tokens per prefill step; None: all at once
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.carry <= 1:
            raise UsageError(f"carry {self.carry:g} is not a share", "Give it from 0 (own attention alone) to 1.")
        if any(not weight > 0 for weight in self.layer_weights):
            raise UsageError("layer_weights has a weight that is not above 0", "Give every layer a positive number.")
