"""Entries with short keys: in trained decoders a key of small norm draws much attention, without anyone being asked.

    s[g, j] = -||k_gj||_2

Rotation does not change a norm, so the cached keys serve as they are.
"""

from typing import ClassVar

from torch import Tensor

from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies.base import Observation
from purekv_cli.method.select import select


class KNorm:
    name: ClassVar[str] = "knorm"
    summary: ClassVar[str] = "Keeps the entries with the shortest keys, per KV head."
    source: ClassVar[str] = "L2-norm KV compression (arXiv 2406.11430)"

    def __init__(self, config: MethodConfig) -> None:
        del config  # nothing to set

    @property
    def uses_question(self) -> bool:
        return False

    def needs_lse(self, index: int) -> bool:
        return False

    def score(self, seen: Observation) -> Tensor:
        """Minus the keys' norms, float32 [B, Hkv, N]."""
        return -seen.key.float().norm(dim=-1)

    def select(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        return select(score, entries, masks.protected, masks.valid)
