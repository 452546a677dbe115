"""Half the budget by SnapKV's score, the rest by how much an entry's value can move the layer's output.

    first half: s[g, j], SnapKV's;  second half: (s[g, j] + 1e-4) * mean over heads h of group g of ||W_O,h v_gj||_1

W_O,h are the output projection's columns of head h. The halves are those of what the budget holds beyond text and
window, which stay anyhow.
"""

from typing import ClassVar

import torch
from torch import Tensor

from purekv_cli.errors import UsageError
from purekv_cli.method import recent
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies.base import Observation
from purekv_cli.method.policies.snapkv import SnapKV
from purekv_cli.method.select import marked, select

EPSILON = 1e-4
_ROWS = 4096  # entries projected at once: bounds the memory


class CriticalKV(SnapKV):
    name: ClassVar[str] = "criticalkv"
    summary: ClassVar[str] = "Half by SnapKV's score, half by it times the size of what the value adds to the output."
    source: ClassVar[str] = "CriticalKV (arXiv 2502.03805), as in kvpress"

    def score(self, seen: Observation) -> Tensor:
        """SnapKV's score, then the weighted one: float32 [B, 2 Hkv, N], the window above all in both."""
        if seen.out is None:
            raise UsageError(
                f"the policy {self.name} needs the weights of every layer's output projection, and this model's are "
                "quantised or go by another name",
                "Choose another policy, such as snapkv, or load the model unquantised.",
            )
        base = super().score(seen)
        window = recent.last(seen.masks.valid, self.window)
        weighted = recent.favoured((base + EPSILON) * _projected(seen.value, seen.out), window)
        return torch.cat([base, weighted], 1)

    def select(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        """Both scores of `score` [B, 2 Hkv, N] in one set: int64 [B, Hkv, P]."""
        base, weighted = score.chunk(2, 1)
        wanted, always = torch.as_tensor(entries, device=score.device), self.always(masks)
        half = torch.minimum(wanted, always + (wanted - always).clamp(min=0) // 2)
        sure = marked(select(base, half, masks.protected, masks.valid), score.shape[-1])
        return select(weighted.masked_fill(sure, torch.inf), entries, masks.protected, masks.valid)


def _projected(value: Tensor, out: Tensor) -> Tensor:
    """||W_O,h v||_1, mean over the heads of a group: float32 [B, Hkv, N] of value [B, Hkv, N, D]."""
    dim = value.shape[-1]
    heads = out.to(value.dtype).view(out.shape[0], value.shape[1], -1, dim).permute(1, 2, 3, 0)  # [Hkv, G, D, hidden]
    parts = [
        torch.stack(
            [
                torch.stack([(rows @ one).float().abs().sum(-1) for one in group]).mean(0)
                for rows, group in zip(part.unbind(1), heads, strict=True)
            ],
            1,
        )
        for part in value.split(_ROWS, 2)
    ]
    return torch.cat(parts, -1)
