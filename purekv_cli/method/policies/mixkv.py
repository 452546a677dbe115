"""Importance mixed with variety: the more alike the keys of a head, the more it counts that an entry differs.

    s[g, j] = h * d_j + (1 - h) * (a_j + n_j)

a is the mean attention of the observed rows and the group's heads; n = ||v_j||_2 and d = -k_j . m, with k of length 1
and m the mean of these, both min-max scaled over the video and then to a's mean; h is the head's redundancy, the mean
cosine between two different keys, not below 0. Keys, values and means are those of the video. The authors' code takes
a from SnapKV's window and h from other prompts beforehand; here a follows `observe` and h is this prompt's, by the
formula that their code has for it.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from purekv_cli.kernels.attention_mass import attention_mass
from purekv_cli.method import importance
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies.base import Observation
from purekv_cli.method.select import select


class MixKV:
    name: ClassVar[str] = "mixkv"
    summary: ClassVar[str] = "Keeps what is attended to and has large values, mixed with what differs from the rest."
    source: ClassVar[str] = "MixKV (arXiv 2510.20707), redundancy as in the authors' code"

    def __init__(self, config: MethodConfig) -> None:
        self._observe = config.observe

    @property
    def uses_question(self) -> bool:
        return self._observe != "video"

    def needs_lse(self, index: int) -> bool:
        """Only where all rows speak: for a few, the kernel finds the LSE on the way."""
        return self._observe == "all"

    def score(self, seen: Observation) -> Tensor:
        """The mix, float32 [B, Hkv, N]; meaningless outside the video, whose text stays anyhow."""
        if seen.query is None:
            raise ValueError("mixkv scores every layer at once and is never asked again")
        rows = importance.observed_rows(seen.masks, self._observe)[:, -seen.query.shape[2] :]
        mass = attention_mass(seen.query, seen.key, seen.lse, seen.scaling, rows, seen.masks.valid, "sum")
        voters = rows.sum(-1).clamp(min=1)[:, None, None] * (seen.query.shape[1] // seen.key.shape[1])
        attention = mass / voters
        video = seen.masks.video[:, None]
        count = video.sum(-1, keepdim=True)
        key = F.normalize(seen.key.float(), dim=-1)
        total = (key * video[..., None]).sum(2, keepdim=True)
        pairs = total.square().sum(-1)  # all cosines, n of them with itself
        redundancy = ((pairs - count) / (count * (count - 1)).clamp(min=1)).clamp(min=0)
        norm = _scaled(seen.value.float().norm(dim=-1), attention, video)
        variety = _scaled(-(key * total).sum(-1), attention, video)
        return redundancy * variety + (1 - redundancy) * (attention + norm)

    def select(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        return select(score, entries, masks.protected, masks.valid)


def _scaled(term: Tensor, attention: Tensor, video: Tensor) -> Tensor:
    """`term` between 0 and 1 over the video, then with the mean of `attention`; all float32 [B, Hkv, N]."""
    least = term.masked_fill(~video, float("inf")).amin(-1, keepdim=True)
    most = term.masked_fill(~video, float("-inf")).amax(-1, keepdim=True)
    unit = ((term - least) / (most - least).clamp(min=1e-12)).masked_fill(~video, 0.0)
    return unit * _total(attention, video) / _total(unit, video).clamp(min=1e-12)


def _total(values: Tensor, video: Tensor) -> Tensor:
    """The sum over the video, [B, Hkv, 1]."""
    return values.masked_fill(~video, 0.0).sum(-1, keepdim=True)
