"""Video entries kept by lot: the baseline that says how much of a result is the method's and how much the task's ease.

One lot per prompt, the same in every layer and head: what stays is then one set of tokens, as with the default policy.
"""

from typing import ClassVar

import torch
from torch import Tensor

from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies.base import Observation
from purekv_cli.method.select import select


class Random:
    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "Keeps video entries by lot, one set for all layers and heads."
    source: ClassVar[str] = "U(0, 1), seeded"

    def __init__(self, config: MethodConfig) -> None:
        self._seed = config.seed
        self._drawn: Tensor | None = None

    @property
    def uses_question(self) -> bool:
        return False

    def needs_lse(self, index: int) -> bool:
        return False

    def score(self, seen: Observation) -> Tensor:
        """U(0, 1), float32 [B, 1, N]; a prompt draws the same alone and beside others, on CPU and GPU."""
        valid = seen.masks.valid
        if self._drawn is None or self._drawn.shape[-1] != valid.shape[-1]:
            drawn = torch.zeros(valid.shape)
            for row, mask in enumerate(valid.cpu()):
                generator = torch.Generator().manual_seed(self._seed)
                drawn[row, mask] = torch.rand(int(mask.sum()), generator=generator)
            self._drawn = drawn[:, None]
        return self._drawn.to(seen.key.device)

    def select(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        return select(score, entries, masks.protected, masks.valid)
