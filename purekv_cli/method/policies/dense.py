"""Nothing is pruned: the baseline every saving is measured against."""

from typing import ClassVar

import torch
from torch import Tensor

from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies.base import Observation
from purekv_cli.method.select import select


class Dense:
    name: ClassVar[str] = "dense"
    summary: ClassVar[str] = "Keeps the whole cache; the budget is ignored."
    source: ClassVar[str] = "none"

    def __init__(self, config: MethodConfig) -> None:
        del config  # nothing to set

    @property
    def uses_question(self) -> bool:
        return False

    def needs_lse(self, index: int) -> bool:
        return False

    def score(self, seen: Observation) -> Tensor:
        """All alike: float32 [B, 1, N] of zeros."""
        return torch.zeros(seen.key.shape[0], 1, seen.key.shape[2], device=seen.key.device)

    def select(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        """Every valid position, whatever the budget."""
        return select(score, masks.valid.sum(-1), masks.protected, masks.valid)
