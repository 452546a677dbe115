"""CLIE as the paper has it: low score layers measure attention mass, higher layers multiply it with their value norms.

    I_l[g, j] = A_src(l)[g, j] * ||V_l[g, j]||_2,  src(l) = the last score layer at or below l

Layers below the first score layer wait for it. Each KV head keeps its own set.
"""

from typing import ClassVar

from torch import Tensor

from purekv_cli.errors import UsageError
from purekv_cli.kernels.attention_mass import attention_mass
from purekv_cli.method import importance
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies.base import Observation
from purekv_cli.method.select import select


class PureKVPaper:
    name: ClassVar[str] = "purekv-paper"
    summary: ClassVar[str] = (
        "The paper's estimate: low layers' attention mass times each layer's value norms, per KV head."
    )
    source: ClassVar[str] = "PureKV (arXiv 2510.25600), CLIE"

    def __init__(self, config: MethodConfig) -> None:
        if not config.score_layers or min(config.score_layers) < 0:
            raise UsageError(
                f"the policy {self.name} cannot work with score layers {list(config.score_layers)}",
                "Name at least one layer, counted from 0, for example score_layers = [0, 1].",
            )
        self._observe = config.observe
        self._layers = frozenset(config.score_layers)
        self._mass: Tensor | None = None  # [B, Hkv, N], of the last score layer seen
        self._first: Tensor | None = None  # of the first one, for the layers that wait for it

    @property
    def uses_question(self) -> bool:
        return self._observe != "video"

    def needs_lse(self, index: int) -> bool:
        return index in self._layers

    def score(self, seen: Observation) -> Tensor | None:
        """float32 [B, Hkv, N]; None below the first score layer, until that one has been seen."""
        if max(self._layers) >= seen.layers:
            raise UsageError(
                f"score layer {max(self._layers)} does not exist in a model of {seen.layers} layers",
                f"Score layers are counted from 0 to {seen.layers - 1}.",
            )
        if seen.query is not None and seen.index in self._layers:
            rows = importance.observed_rows(seen.masks, self._observe)[:, -seen.query.shape[2] :]
            self._mass = attention_mass(seen.query, seen.key, seen.lse, seen.scaling, rows, seen.masks.valid, "sum")
            if self._first is None:
                self._first = self._mass
        source = self._first if seen.index < min(self._layers) else self._mass
        return None if source is None else importance.clie(source, seen.value)

    def select(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        return select(score, entries, masks.protected, masks.valid)
