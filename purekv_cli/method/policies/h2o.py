"""Heavy hitters: what got most attention from all rows of the prompt, and a recent window of half the budget.

    s[g, j] = sum over heads h of group g and rows i >= j of A[h, i, j]

Early entries are seen by more rows, and the sum favours them; that is the method, and why it needs its window.
"""

from typing import ClassVar

from torch import Tensor

from purekv_cli.kernels.attention_mass import attention_mass
from purekv_cli.method import recent
from purekv_cli.method.config import MethodConfig, Observe
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies.base import Observation
from purekv_cli.method.select import select


class H2O:
    name: ClassVar[str] = "h2o"
    summary: ClassVar[str] = "Keeps what all rows together attended to most, and the latest entries, half and half."
    source: ClassVar[str] = "H2O (arXiv 2306.14048), halves as in the authors' code"
    observes: ClassVar[Observe] = "all"

    def __init__(self, config: MethodConfig) -> None:
        del config  # nothing to set

    @property
    def uses_question(self) -> bool:
        return True

    def needs_lse(self, index: int) -> bool:
        return True

    def score(self, seen: Observation) -> Tensor:
        """Accumulated attention, float32 [B, Hkv, N]."""
        assert seen.query is not None
        valid = seen.masks.valid
        rows = valid[:, -seen.query.shape[2] :]
        return attention_mass(seen.query, seen.key, seen.lse, seen.scaling, rows, valid, "sum")

    def select(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        score = recent.favoured(score, recent.last(masks.valid, entries // 2))
        return select(score, entries, masks.protected, masks.valid)
