"""Two halves of a budget: what differs most from the same place in recent frames, and what has large values.

    TaR[t, p] = -mean over recent frames f of cos(k_tp, k_fp)    recent: the last 25 % of the frames, at least one
    VaN[t, p] = ||v_tp||_2

The recent frames are kept first, out of TaR's half; where they do not fit, the latest of them. VaN's half goes to
entries that are not kept already. No attention is read, so a clip can be pruned before anyone has asked. Pooling of the
norms over places, which the authors' code can switch on, is left out.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from purekv_cli.errors import UsageError
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies.base import Observation
from purekv_cli.method.select import marked, select

RECENT = 0.25


class InfiniPotV:
    name: ClassVar[str] = "infinipot-v"
    summary: ClassVar[str] = "Keeps recent frames and what differs from them, and large values, half and half."
    source: ClassVar[str] = "InfiniPot-V (arXiv 2506.15745), TaR and VaN as in the authors' code"

    def __init__(self, config: MethodConfig) -> None:
        del config  # nothing to set

    @property
    def uses_question(self) -> bool:
        return False

    def needs_lse(self, index: int) -> bool:
        return False

    def score(self, seen: Observation) -> Tensor:
        """Ranks by TaR in the first half of the heads, by VaN in the second: float32 [B, 2 Hkv, N], from 0 to 1."""
        return torch.cat([_ranks(_novelty(seen)), _ranks(seen.value.float().norm(dim=-1))], 1)

    def select(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        """Both halves of `score` [B, 2 Hkv, N] in one set: int64 [B, Hkv, P]."""
        novelty, norm = score.chunk(2, 1)
        text = masks.protected.sum(-1)
        room = (torch.as_tensor(entries, device=score.device) - text).clamp(min=0)
        first = select(novelty, text + (room + 1) // 2, masks.protected, masks.valid)
        kept = marked(first, score.shape[-1])
        return select(norm.masked_fill(kept, 2.0), entries, masks.protected, masks.valid)


def _novelty(seen: Observation) -> Tensor:
    """TaR of every video entry, those of recent frames above all, the latest highest; float32 [B, Hkv, N]."""
    masks = seen.masks
    if masks.frame is None or masks.spot is None:
        raise UsageError(
            f"the policy {InfiniPotV.name} has to know which frame a video token is of, but the grid is unknown",
            "Give one prompt with one video at a time, or its layout.",
        )
    number = masks.frame.masked_fill(~masks.video, -1)
    newest = number.amax(-1, keepdim=True)
    oldest = masks.frame.masked_fill(~masks.video, torch.iinfo(torch.int64).max).amin(-1, keepdim=True)
    recent = number > newest - ((newest - oldest + 1) * RECENT).floor().clamp(min=1)
    key = F.normalize(seen.key.float(), dim=-1)
    spot = masks.spot[:, None, :, None].expand_as(key)
    spots = int(masks.spot.max()) + 1
    shown = (recent & masks.video)[:, None, :, None]
    batch, heads, _, dim = key.shape
    total = key.new_zeros(batch, heads, spots, dim).scatter_add_(2, spot, key * shown)
    count = key.new_zeros(batch, 1, spots).scatter_add_(2, masks.spot[:, None], shown[..., 0].to(key.dtype))
    mean = total / count.clamp(min=1)[..., None]  # by linearity the mean cosine is the product with the mean direction
    novelty = -(key * mean.gather(2, spot)).sum(-1)
    return torch.where(shown[..., 0], 2.0 + number[:, None].to(key.dtype), novelty)


def _ranks(values: Tensor) -> Tensor:
    """Each value's place among those of its row, from 0, the smallest, to 1; of equal values the earlier is higher."""
    order = values.sort(dim=-1, descending=True, stable=True).indices
    places = torch.linspace(1, 0, values.shape[-1], device=values.device).expand_as(values)
    return torch.empty_like(values).scatter_(-1, order, places)
