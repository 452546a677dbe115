"""The first four entries, where attention sinks lie, and the latest ones: a sliding window that looks at no attention.

Both ends are mostly text, which stays anyhow and counts; what is left of the budget is the end of the video. A prompt
that comes in chunks keeps the end of every chunk.
"""

from typing import ClassVar

import torch
from torch import Tensor

from purekv_cli.method import recent
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies.base import Observation
from purekv_cli.method.select import select

SINKS = 4


class StreamingLLM:
    name: ClassVar[str] = "streaming-llm"
    summary: ClassVar[str] = "Keeps the first four entries and the latest ones."
    source: ClassVar[str] = "StreamingLLM (arXiv 2309.17453)"

    def __init__(self, config: MethodConfig) -> None:
        del config  # nothing to set

    @property
    def uses_question(self) -> bool:
        return False

    def needs_lse(self, index: int) -> bool:
        return False

    def score(self, seen: Observation) -> Tensor:
        """Later is better, and the first four best of all: float32 [B, 1, N]."""
        valid = seen.masks.valid
        position = torch.arange(valid.shape[-1], device=valid.device, dtype=torch.float32)
        return position.masked_fill(recent.first(valid, SINKS), float("inf"))[:, None]

    def select(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        return select(score, entries, masks.protected, masks.valid)
