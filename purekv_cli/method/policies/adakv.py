"""SnapKV's score with a budget that moves between the heads of a layer: those that spread their attention keep more.

Every head is sure of its best 20 % (of what the budget holds beyond text and window, which stay in each); the rest of
the layer's k * H places go to the best scores of all heads. So it is in the authors' contribution to kvpress; their own
repository gives each head 20 % of an equal share and 80 % of what it would win in that competition.
"""

from typing import ClassVar

import torch
from torch import Tensor

from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies.snapkv import SnapKV
from purekv_cli.method.select import marked, select

ALPHA = 0.2


class AdaKV(SnapKV):
    name: ClassVar[str] = "adakv"
    summary: ClassVar[str] = "SnapKV's score, with the heads of a layer competing for its entries."
    source: ClassVar[str] = "Ada-KV (arXiv 2407.11550), safeguard as in kvpress"

    def select(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        """Heads keep sets of different size: rows are padded at the end with -1."""
        batch, heads, length = score.shape
        protected, valid = masks.protected, masks.valid
        wanted = torch.as_tensor(entries, device=score.device)
        wanted = torch.minimum(torch.maximum(wanted, protected.sum(-1)), valid.sum(-1))  # [B], of every head on average
        always = self.always(masks)
        sure = torch.minimum(wanted, always + (ALPHA * (wanted - always).clamp(min=0)).long())
        safe = marked(select(score, sure, protected, valid), length)
        together = score.masked_fill(safe, float("inf")).view(batch, 1, heads * length)
        everywhere = (mask.repeat(1, heads) for mask in (protected, valid))
        kept = marked(select(together, wanted * heads, *everywhere), heads * length).view(batch, heads, length)
        position = torch.where(kept, torch.arange(length, device=score.device), length).sort(-1).values
        return position.masked_fill(position == length, -1)[..., : int(kept.sum(-1).max())]
