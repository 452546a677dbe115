"""How important is a cache entry? Whose attention is read, and how it becomes one score per entry.

Two scores live here. CLIE: I_l = A_src(l) * ||V_l||_2, the attention mass of a low score layer
times the value norms of the layer that is pruned. And the pooled one: the largest attention that any observed row and
head of any layer so far pays to an entry, one set for all heads; on the pilot model it beat every per-layer and
per-head variant.
"""

import torch
from torch import Tensor

from purekv_cli.method.config import MethodConfig, Observe
from purekv_cli.method.layout import PromptMasks

VIDEO_ROWS = 32  # last video rows that speak for the video when no question does


def observed_rows(masks: PromptMasks, observe: Observe) -> Tensor:
    """bool [B, N]: the queries whose attention is read.

    "question": the text after the video, if only the marker that closes it; a prompt that ends with its video falls
    back to "video": its last 32 video rows. "all": every token, the paper's accumulated scores. "template": the same
    rows as "question", of a prompt that asks nothing: a `Session` reads the clip with the chat template's tokens alone
    after it, and feeds the question over what stayed.
    """
    if observe == "all":
        return masks.valid
    from_end = masks.video.flip(-1).cumsum(-1).flip(-1)  # video rows at or after this position
    last = masks.video & (from_end <= VIDEO_ROWS)
    if observe == "video":
        return torch.where(masks.video.any(-1, keepdim=True), last, masks.valid)
    question = masks.after & masks.valid
    return torch.where(question.any(-1, keepdim=True), question, last)


def clie(mass: Tensor, value: Tensor) -> Tensor:
    """I[g, j] = A[g, j] * ||V[g, j]||_2: mass [B, Hkv, N] of the source layer, value [B, Hkv, N, D] of this one."""
    return mass * value.float().norm(dim=-1)


def pooled(mass: Tensor) -> Tensor:
    """Largest over the heads, float32 [B, 1, N]: one set of entries for all of them."""
    return mass.amax(1, keepdim=True)


def running_max(so_far: Tensor | None, score: Tensor) -> Tensor:
    """Largest over the layers seen so far."""
    return score if so_far is None else torch.maximum(so_far, score)


def carried(config: MethodConfig) -> float:
    """How loud the layers below speak in a layer's score: `carry`, where the question is among the rows that are read.

    Otherwise in full: rows that ask for nothing in particular need every layer to say what may matter.
    """
    return config.carry if config.observe == "question" else 1.0


def normalised(score: Tensor, masks: PromptMasks) -> Tensor:
    """Score as shares of its sum over the video, so that no layer speaks louder than another in a maximum of layers.

    A guard for models with attention sinks inside the video; off by default.
    """
    total = score.masked_fill(~masks.video[:, None], 0.0).sum(-1, keepdim=True)
    return torch.where(total > 0, score / total.clamp(min=torch.finfo(score.dtype).tiny), score)
