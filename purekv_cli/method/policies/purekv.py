"""The default: the entries that the text after the video looks at, pooled over rows, heads and layers into one set.

A_l(j) = max(max over heads and observed rows i of softmax(q_i . k_j), carry * A_(l-1)(j)): an entry that one head needs
for one word stays, here and, by the share `carry`, in the layers above. Because the maximum runs upward, layer l's set
needs only layers <= l and its full KV is freed at once. Value norms, which help the paper's estimate, harm this score
and are left out.

How much of the budget a layer gets is a fact of the model, not of the prompt: calibration measures it and the preset
says it (`layer_weights`), and likewise which layers need the text before the video (`preamble_layers`).
"""

from typing import ClassVar

from torch import Tensor

from purekv_cli.kernels.attention_mass import attention_mass
from purekv_cli.method import importance
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies.base import Observation
from purekv_cli.method.select import select


class PureKV:
    name: ClassVar[str] = "purekv"
    summary: ClassVar[str] = "Keeps what the text after the video attends to most, one set for all heads."
    source: ClassVar[str] = "own, after PureKV (arXiv 2510.25600): max-pooled attention of the text rows"
    weighs_layers: ClassVar[bool] = True  # its budget follows what the preset says of the layers

    def __init__(self, config: MethodConfig) -> None:
        self._observe = config.observe
        self._one_set = config.one_set
        self._normalise = config.normalise
        self._carry = importance.carried(config)
        self._best: Tensor | None = None  # [B, 1, N], over the layers so far
        self._complete = False

    @property
    def uses_question(self) -> bool:
        return self._observe != "video"

    def needs_lse(self, index: int) -> bool:
        """Only where all rows speak: for a few, the kernel finds the LSE on the way."""
        return self._observe == "all"

    def score(self, seen: Observation) -> Tensor | None:
        """The running maximum, float32 [B, 1, N]; with `one_set` None until the last layer has been seen."""
        if seen.query is not None:
            rows = importance.observed_rows(seen.masks, self._observe)[:, -seen.query.shape[2] :]
            mass = attention_mass(seen.query, seen.key, seen.lse, seen.scaling, rows, seen.masks.valid, "max")
            score = importance.pooled(mass)
            if self._normalise:
                score = importance.normalised(score, seen.masks)
            below = None if self._best is None else self._carry * self._best
            self._best = importance.running_max(below, score)
            self._complete = seen.index == seen.layers - 1
        return self._best if self._complete or not self._one_set else None

    def select(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        return select(score, entries, masks.protected, masks.valid)
