"""The entries that the prompt's last row attends to, averaged over all heads: one set a layer.

s[j] = mean over heads h of A[h, N - 1, j]
"""

from typing import ClassVar

from torch import Tensor

from purekv_cli.kernels.attention_mass import attention_mass
from purekv_cli.method import recent
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies.base import Observation
from purekv_cli.method.select import select


class TOVA:
    name: ClassVar[str] = "tova"
    summary: ClassVar[str] = "Keeps what the last row attends to most, one set for all heads of a layer."
    source: ClassVar[str] = "TOVA (arXiv 2401.06104)"

    def __init__(self, config: MethodConfig) -> None:
        del config  # nothing to set

    @property
    def uses_question(self) -> bool:
        return True

    def needs_lse(self, index: int) -> bool:
        return False

    def score(self, seen: Observation) -> Tensor:
        """The last row's attention, float32 [B, 1, N]."""
        assert seen.query is not None
        heads, length = seen.query.shape[1:3]
        valid = seen.masks.valid
        rows = recent.last(valid, 1)[:, -length:]
        mass = attention_mass(seen.query, seen.key, seen.lse, seen.scaling, rows, valid, "sum")
        return mass.sum(1, keepdim=True) / heads

    def select(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        return select(score, entries, masks.protected, masks.valid)
