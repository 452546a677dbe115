"""The attention that queries still to come are expected to pay, if they are spread like those of the prompt.

    q ~ N(mu, S) before rotation;  m = R mu,  C = R S R^T,  R = mean rotary matrix of the next 512 text positions
    s[g, j] = ||v_gj||_2 * mean over heads h of group g of softmax_j(m_h . k_j / sqrt(d) + k_j^T C_h k_j / (2 d))

mu and S are those of every row, turned back by its own angles, but for the first four; these are attention sinks and
stay. With `observe` "video" the rows after the video are left out too, and nothing depends on the question.
"""

from typing import ClassVar

import torch
from torch import Tensor

from purekv_cli.errors import UsageError
from purekv_cli.method import recent
from purekv_cli.method.config import MethodConfig, Observe
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies.base import Observation
from purekv_cli.method.select import select

SINKS, AHEAD = 4, 512


class ExpectedAttention:
    name: ClassVar[str] = "expected-attention"
    summary: ClassVar[str] = "Keeps what queries like the prompt's would attend to from later positions, times values."
    source: ClassVar[str] = "Expected Attention (arXiv 2510.00636), as in kvpress"
    observes: ClassVar[Observe] = "all"
    needs_rotary: ClassVar[bool] = True

    def __init__(self, config: MethodConfig) -> None:
        self._observe = config.observe

    @property
    def uses_question(self) -> bool:
        return self._observe != "video"

    def needs_lse(self, index: int) -> bool:
        return False

    def score(self, seen: Observation) -> Tensor:
        """float32 [B, Hkv, N], the first four infinite."""
        assert seen.query is not None
        if seen.rotary is None:
            raise UsageError(
                f"the policy {self.name} has to turn queries back, but the prompt's rotary positions are not known",
                "Give the whole prompt in one call, to a model with rotary positions.",
            )
        masks, groups = seen.masks, seen.query.shape[1] // seen.key.shape[1]
        sinks = recent.first(masks.valid, SINKS)
        keys = (masks.valid & ~sinks)[:, None]
        rows = keys & ~masks.after[:, None] if self._observe == "video" else keys
        cos, sin = (angle[:, None].float() for angle in (seen.rotary.cos, seen.rotary.sin))
        later = tuple(angle.float().mean(1)[:, None, None] for angle in seen.rotary.ahead(AHEAD))
        scores = []
        for head in range(seen.key.shape[1]):  # one at a time: a copy of all queries would be large
            query = seen.query[:, head * groups : (head + 1) * groups].float()
            query = _turned(query, cos, -sin) / (cos.square() + sin.square())
            mean, spread = _moments(query, rows)
            mean = _turned(mean, *later)
            spread = _turned(_turned(spread, *later).mT, *later)
            key = seen.key[:, head : head + 1].float()
            expected = (key * mean).sum(-1) * seen.scaling
            expected = expected + ((key @ spread) * key).sum(-1) * (seen.scaling**2 / 2)
            scores.append(expected.masked_fill(~keys, -torch.inf).softmax(-1).mean(1))
        score = torch.stack(scores, 1) * seen.value.float().norm(dim=-1)
        return score.masked_fill(sinks[:, None], torch.inf)

    def select(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        return select(score, entries, masks.protected, masks.valid)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., D] turned by these angles."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _moments(query: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [B, G, 1, D] and covariance [B, G, D, D] of the `rows` [B, 1, N] of query [B, G, N, D]."""
    rows = rows[..., None]
    count = rows.sum(2, keepdim=True).clamp(min=1)
    mean = (query * rows).sum(2, keepdim=True) / count
    centred = (query - mean) * rows
    return mean, centred.mT @ centred / count
