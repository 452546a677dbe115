"""Video tokens end after layer K = 2 unless the last token looks at them; every layer above runs on the others alone.

    s[j] = mean over heads h of A[h, N - 1, j] at layer K - 1

What is dropped is dropped from the hidden states, not only from the cache. The paper leaves the K lower layers' cache
whole. For equal bytes their N entries count: of L layers with a budget of k entries each, the upper ones get
(L k - K N) / (L - K). Where the lower ones would take more than half of all bytes (K of 8 layers are a quarter of the
full cache), or leave less than the text, every layer keeps the same k tokens instead, the lower ones too.
"""

from typing import ClassVar

import torch
from torch import Tensor

from purekv_cli.method import recent
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies.base import Observation
from purekv_cli.method.policies.tova import TOVA
from purekv_cli.method.select import marked, select

LAYERS_BELOW = 2  # K


class FastV(TOVA):
    name: ClassVar[str] = "fastv"
    summary: ClassVar[str] = "Ends tokens after layer 2 that its last row attends to least, hidden states and all."
    source: ClassVar[str] = "FastV (arXiv 2403.06764)"
    drops_tokens: ClassVar[bool] = True

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self._score: Tensor | None = None
        self._index, self._layers = 0, 1

    def ends_at(self, layers: int) -> int:
        return min(LAYERS_BELOW, layers) - 1

    def score(self, seen: Observation) -> Tensor | None:  # type: ignore[override]
        """float32 [B, 1, N], of layer K - 1 for all; None below it."""
        self._index, self._layers = seen.index, seen.layers
        if seen.query is not None and seen.index == self.ends_at(seen.layers):
            self._score = recent.favoured(super().score(seen), recent.last(seen.masks.valid, 1))
        return None if self._score is None else self._score.to(seen.key.device)

    def select(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        """What flows; in the lower layers everything where the budget has room for it."""
        count, whole = self._counts(entries, masks)
        if self._index <= self.ends_at(self._layers):
            count = torch.where(whole, masks.valid.sum(-1), count)
        return select(score, count, masks.protected, masks.valid)

    def flows(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        count, _ = self._counts(entries, masks)
        return marked(select(score, count, masks.protected, masks.valid), score.shape[-1])[:, 0]

    def _counts(self, entries: int | Tensor, masks: PromptMasks) -> tuple[Tensor, Tensor]:
        """How many tokens flow, int64 [B], and whether the lower layers stay whole, bool [B]."""
        length, text = masks.valid.sum(-1), masks.protected.sum(-1)
        each = torch.as_tensor(entries, device=length.device).expand_as(length)
        below, total = LAYERS_BELOW * length, self._layers * each
        above = (total - below) // max(1, self._layers - LAYERS_BELOW)
        whole = (2 * below <= total) & (above > text) & (self._layers > LAYERS_BELOW)
        return torch.where(whole, above, each), whole
