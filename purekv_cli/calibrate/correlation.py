"""How well does a score layer's attention estimate that of another layer?

    plain[s, l]  = rho(A_s, A_l)        valued[s, l] = rho(A_s * ||V_l||, A_l)

rho is Spearman's over the video's tokens, A_s the attention mass that a KV head of layer s gives them (CLIE), and A_l
that of the same head of layer l: what a policy that measured layer l itself would know. One number a clip and KV head.
Layers l > s are those that s is meant to serve; those below it wait for it if it is the first score layer. `all` counts
every row that sees a token, so early tokens have more: part of its correlation is that slope.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from purekv_cli.calibrate.ranks import standard_ranks
from purekv_cli.eval.replay_judge import ReadPrompt
from purekv_cli.kernels.attention_mass import attention_mass
from purekv_cli.method.config import Observe
from purekv_cli.method.importance import clie, observed_rows

OBSERVED: tuple[Observe, ...] = ("question", "video", "all")
_SORTED = 2**24  # values ranked at once: bounds memory for long clips and many layers


@dataclass(frozen=True, slots=True)
class Matrix:
    """Of one set of observed rows."""

    observe: Observe
    mean: Tensor  # float64 [2, L, L]: plain, valued; [s, l]; over prompts and KV heads
    spread: Tensor  # float64 [2, L, L], standard deviation over the same
    samples: int  # prompts times KV heads

    @property
    def plain(self) -> Tensor:
        return self.mean[0]

    @property
    def valued(self) -> Tensor:
        return self.mean[1]


def correlations(read: ReadPrompt, observe: Observe) -> Tensor:
    """plain and valued of one prompt, float32 [2, L, L, Hkv]; NaN where all masses are equal."""
    columns = read.masks.video[0]
    rows = observed_rows(read.masks, observe)
    layers = read.states
    mass = [
        attention_mass(s.query, s.key, s.lse, read.scaling, rows, read.masks.valid, "sum")[:, :, columns]
        for s in layers
    ]
    own = torch.cat([standard_ranks(each) for each in mass])  # [L, Hkv, V]
    found = own.new_empty(2, len(layers), len(layers), own.shape[1])
    step = max(1, _SORTED // own[0].numel())
    for source in range(len(layers)):
        found[0, source] = (own[source] * own).sum(-1)
        for start in range(0, len(layers), step):
            part = slice(start, start + step)
            estimates = torch.cat([clie(mass[source], layer.value[:, :, columns]) for layer in layers[part]])
            found[1, source, part] = (standard_ranks(estimates) * own[part]).sum(-1)
    return found


def summed_up(observe: Observe, found: Sequence[Tensor]) -> Matrix:
    """Mean and spread of `correlations` of several prompts."""
    every = torch.cat([each.double().cpu() for each in found], -1)  # [2, L, L, samples]
    mean = every.nanmean(-1)
    spread = (every - mean[..., None]).square().nanmean(-1).sqrt()
    return Matrix(observe, mean, spread, every.shape[-1])
