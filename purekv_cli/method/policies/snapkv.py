"""The entries that the prompt's last rows attend to, with their neighbours; the window of these rows stays whole.

    s[g, j] = pool over |j' - j| <= 2 of the mean over heads h of group g and the last w rows i of A[h, i, j']

Pooling runs over what lies before the window, zeros beyond its ends. If the budget cannot hold the window, its latest
entries stay.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from purekv_cli.kernels.attention_mass import attention_mass
from purekv_cli.method import recent
from purekv_cli.method.config import MethodConfig, Observe
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies.base import Observation
from purekv_cli.method.select import select

POOL = 5


class SnapKV:
    name: ClassVar[str] = "snapkv"
    summary: ClassVar[str] = "Keeps the last 32 entries, what their rows attend to and its neighbours, per KV head."
    source: ClassVar[str] = "SnapKV (arXiv 2404.14469)"
    observes: ClassVar[Observe] = "all"  # the window may begin before the question
    window: ClassVar[int] = 32

    def __init__(self, config: MethodConfig) -> None:
        del config  # nothing to set

    @property
    def uses_question(self) -> bool:
        return True

    def needs_lse(self, index: int) -> bool:
        return False

    def score(self, seen: Observation) -> Tensor:
        """Pooled attention of the window, float32 [B, Hkv, N], the window itself above all."""
        assert seen.query is not None
        heads, length = seen.query.shape[1:3]
        valid = seen.masks.valid
        window = recent.last(valid, self.window)
        mass = attention_mass(seen.query, seen.key, seen.lse, seen.scaling, window[:, -length:], valid, "sum")
        votes = window.sum(-1)[:, None, None] * (heads // seen.key.shape[1])
        mean = (mass / votes).masked_fill(window[:, None], 0.0)
        return recent.favoured(F.avg_pool1d(mean, POOL, stride=1, padding=POOL // 2), window)

    def select(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        return select(score, entries, masks.protected, masks.valid)

    def always(self, masks: PromptMasks) -> Tensor:
        """int64 [B]: how many entries stay whatever their score, text and window."""
        return (masks.protected | recent.last(masks.valid, self.window)).sum(-1)
