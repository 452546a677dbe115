"""SnapKV in every layer, and from the middle of the model on only a quarter of the tokens flow.

    flow above layer L/2 - 1: the top 25 % by the sum over KV heads of SnapKV's score there, with window and text

No fewer flow than the budget keeps. The cache of every layer is cut to the budget by its own SnapKV score per KV
head, above the middle among what flows; pooling goes along the prompt's positions, dropped ones counting as zero.
Window and pooling are SnapKV's here (the authors': 8 rows, maximum over 7), so that only the flow differs.
"""

from typing import ClassVar

import torch
from torch import Tensor

from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies.snapkv import SnapKV
from purekv_cli.method.select import marked, select

SHARE = 0.25


class FastKV(SnapKV):
    name: ClassVar[str] = "fastkv"
    summary: ClassVar[str] = "SnapKV, and above the middle layer only a quarter of the tokens flow on."
    source: ClassVar[str] = "FastKV (arXiv 2502.01068)"
    drops_tokens: ClassVar[bool] = True

    def ends_at(self, layers: int) -> int:
        return max(0, layers // 2 - 1)

    def flows(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        count = (masks.valid.sum(-1) * SHARE).floor().long()
        count = torch.maximum(count, torch.as_tensor(entries, device=count.device))
        together = score.sum(1, keepdim=True)
        return marked(select(together, count, masks.protected, masks.valid), score.shape[-1])[:, 0]
