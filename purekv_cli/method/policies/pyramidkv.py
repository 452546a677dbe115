"""SnapKV's score with a budget that falls from layer to layer: low layers spread their attention, high ones focus it.

With B = mean budget - w:  min = B / 20,  max = 2 B - min,  layer l keeps w + max - (max - min) * l / (layers - 1).
If max > L - w, then max = L - w and min = 2 B - max. All layers together keep what equal budgets would. Here w is all
that stays whatever its score, the text as well as the window: a budget below it would break the mean.
"""

from typing import ClassVar

import torch
from torch import Tensor

from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies.base import Observation
from purekv_cli.method.policies.snapkv import SnapKV

STEEPNESS = 20


class PyramidKV(SnapKV):
    name: ClassVar[str] = "pyramidkv"
    summary: ClassVar[str] = "SnapKV's score, with more entries in low layers and fewer in high ones."
    source: ClassVar[str] = "PyramidKV (arXiv 2406.02069), budgets as in the authors' code"

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self._index, self._layers = 0, 1

    def score(self, seen: Observation) -> Tensor:
        """SnapKV's; the layer is remembered, for `select` is asked next."""
        self._index, self._layers = seen.index, seen.layers
        return super().score(seen)

    def select(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        return super().select(score, self.entries_of(self._index, entries, masks), masks)

    def entries_of(self, index: int, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        """Entries that layer `index` keeps, int64 [B]; their sum over all layers is layers * entries."""
        always = self.always(masks)
        mean = (torch.as_tensor(entries, device=always.device) - always).double()
        rest = masks.valid.sum(-1) - always
        most = torch.minimum(2 * mean - mean / STEEPNESS, rest.double())
        step = 2 * (most - mean) / max(1, self._layers - 1)  # max - min = 2 (max - B)

        def below(layer: int) -> Tensor:
            """Entries of all layers under this one: rounded as a sum, so that nothing is lost to rounding."""
            return (layer * most - step * (layer * (layer - 1) / 2)).round().long()

        own = always + below(index + 1) - below(index)
        return torch.where((mean > 0) & (mean < rest) & (self._layers > 1), own, always + mean.long())
