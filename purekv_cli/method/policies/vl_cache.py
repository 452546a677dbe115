"""Layers share one budget by how many entries each looks at, and keep what the text after the video looks at.

    gamma_l = 1 - share of entries with A_ij >= 0.01 max_j A_ij      over the observed rows i, entries j <= i, all heads
    beta_l  = clip((1 - gamma_l) / sum(1 - gamma) * alpha * L, 0.01, 1)     s[g, j] = sum of A over rows and group

beta is a share of the video, alpha the mean one; where a layer meets a bound, the others take or give the difference,
so that the layers together keep what equal budgets would. A tenth of a layer's entries are its latest. No layer's share
is known before all have been seen, so every layer's full KV is held until then.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from purekv_cli.kernels.attention_mass import attention_mass
from purekv_cli.method import importance, recent
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies.base import Observation
from purekv_cli.method.select import select

THRESHOLD = 0.01  # of a row's largest attention: what counts as looked at
LEAST = 0.01  # share of the video that every layer keeps
_BLOCK_ELEMENTS = 2**26  # of a block of scores


class VLCache:
    name: ClassVar[str] = "vl-cache"
    summary: ClassVar[str] = "Keeps what the text after the video attends to, more in layers that look at more entries."
    source: ClassVar[str] = "VL-Cache (arXiv 2410.23317)"

    def __init__(self, config: MethodConfig) -> None:
        self._observe = config.observe
        self._mass: list[Tensor] = []  # [B, Hkv, N] of every layer so far
        self._density: list[Tensor] = []  # 1 - gamma, float64 [B] on the CPU
        self._index = 0

    @property
    def uses_question(self) -> bool:
        return self._observe != "video"

    def needs_lse(self, index: int) -> bool:
        """Only where all rows speak: for a few, the kernel finds the LSE on the way."""
        return self._observe == "all"

    def score(self, seen: Observation) -> Tensor | None:
        """float32 [B, Hkv, N], None until the last layer has been seen; `select` is asked next, of the same layer."""
        if seen.query is not None:
            rows = importance.observed_rows(seen.masks, self._observe)[:, -seen.query.shape[2] :]
            valid = seen.masks.valid
            self._mass.append(attention_mass(seen.query, seen.key, seen.lse, seen.scaling, rows, valid, "sum"))
            self._density.append(_density(seen, rows))
        self._index = seen.index
        return self._mass[seen.index] if len(self._mass) == seen.layers else None

    def select(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        own = self.entries_of(self._index, entries, masks)
        score = recent.favoured(score, recent.last(masks.valid, own // 10))
        return select(score, own, masks.protected, masks.valid)

    def entries_of(self, index: int, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        """Entries that layer `index` keeps, int64 [B]; their sum over all layers is layers * entries."""
        text, video = masks.protected.sum(-1).cpu(), masks.video.sum(-1).cpu()
        room = torch.minimum((torch.as_tensor(entries).cpu() - text).clamp(min=0), video)
        shares = _shares(torch.stack(self._density), room / video.clamp(min=1).double())
        through = (shares * video).cumsum(0).round().long()  # rounded as a sum, so that nothing is lost to rounding
        own = through[index] - (through[index - 1] if index else 0)
        return (text + own).to(masks.valid.device)


def _shares(density: Tensor, mean: Tensor) -> Tensor:
    """beta, float64 [L, B] with the given mean [B] over the layers: the factor of 1 - gamma is found by halving."""
    least = mean.clamp(max=LEAST)
    low, high = torch.zeros_like(mean), 1 / density.amin(0)
    for _ in range(60):
        middle = (low + high) / 2
        above = (density * middle).clamp(max=1).maximum(least).mean(0) > mean
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (density * high).clamp(max=1).maximum(least)


def _density(seen: Observation, rows: Tensor) -> Tensor:
    """1 - gamma of every prompt, float64 [B] on the CPU; scores compare as their attention does, without a softmax."""
    assert seen.query is not None
    batch, heads, asked, dim = seen.query.shape
    kv_heads, length = seen.key.shape[1:3]
    column = torch.arange(length, device=seen.key.device)
    step = max(1, _BLOCK_ELEMENTS // (heads * length))
    density = []
    for row in range(batch):
        looked, total = 0, 0
        key = seen.key[row].float().mT[:, None]
        for at in rows[row].nonzero()[:, 0].split(step):
            query = seen.query[row][:, at].float().view(kv_heads, heads // kv_heads, len(at), dim)
            visible = (column <= at[:, None] + (length - asked)) & seen.masks.valid[row]
            scores = (query @ key * seen.scaling).masked_fill(~visible, float("-inf"))
            looked += int((scores >= scores.amax(-1, keepdim=True) + math.log(THRESHOLD)).sum())
            total += heads * int(visible.sum())
        density.append(looked / total if total else 1.0)
    return torch.tensor(density, dtype=torch.float64)
