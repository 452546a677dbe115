"""What the fast prefill asks of a policy, layer by layer: which of the tokens that flow stay in the cache.

The default policy is computed from the observed rows alone, in whatever order the keys lie, without waiting for the
device. Every other policy is asked through its own two functions and gets the layer as the stock path shows it: all
positions of the prompt, in the prompt's order; tokens that no longer flow are marked as padding.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from purekv_cli.kernels.attention_mass import row_mass
from purekv_cli.method import importance
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.method.policies import make, observes
from purekv_cli.method.policies.base import Observation, Rotary, dropping
from purekv_cli.method.select import keep_best


@dataclass(frozen=True, slots=True)
class Shown:
    """One layer's keys and values of the n tokens that flow, and some of its queries."""

    index: int
    query: Tensor | None  # [1, Hq, M, D], the last M of the n rows; None: asked again
    lse: Tensor | None  # float32 [1, Hq, M]
    key: Tensor  # [1, Hkv, n, D]
    value: Tensor  # [1, Hkv, n, D]
    source: Tensor | None  # int64 [n], row of every token in key and value; None: in order
    key_order: Tensor | None  # int64 [n], the token in every row of key and value
    out: Tensor | None = None  # [hidden, Hq * D], weight of the output projection


@dataclass(frozen=True, slots=True)
class Flow:
    """The tokens that flow through a layer, in the prompt's order."""

    masks: PromptMasks  # of them, [1, n]
    positions: Tensor | None = None  # int64 [n], their places in the prompt; None: all of it

    @property
    def count(self) -> int:
        """n."""
        return self.masks.video.shape[1]

    def without_preamble(self) -> "Flow":
        """For the choice of a layer that drops the text before the video."""
        return replace(self, masks=self.masks.without_preamble(torch.ones_like(self.masks.valid[:, 0])))

    def narrowed(self, rows: Tensor) -> "Flow":
        """Only tokens `rows` [m] of these."""
        return Flow(
            self.masks.map(lambda each: each.index_select(1, rows)),
            rows if self.positions is None else self.positions[rows],
        )


class Scorer(Protocol):
    """One policy over one prefill."""

    def rows(self, flow: Flow) -> int:
        """How many of the last rows' queries it looks at."""
        ...

    def needs_lse(self, index: int) -> bool:
        """Whether layer `index` must hand over the LSE of these rows; such a layer attends densely."""
        ...

    def waits(self, index: int) -> bool:
        """Whether nothing may be dropped yet after layer `index`, although there is a score."""
        ...

    def score(self, shown: Shown, flow: Flow) -> Tensor | None:
        """Running importance of every flowing token, float32 [1, Hkv or 1, n]; None: not known yet."""
        ...

    def select(self, score: Tensor, count: int, flow: Flow) -> Tensor:
        """The tokens of the flow that stay, ascending, int64 [1, Hkv or 1, count], -1 where a head keeps fewer."""
        ...

    def narrow(self, rows: Tensor) -> None:
        """From now on only tokens `rows` of the flow go on."""
        ...

    def ends_at(self) -> int | None:
        """The layer above which the policy itself wants only some tokens to flow; None: it leaves that to others."""
        ...

    def flowing(self, score: Tensor, count: int) -> Tensor:
        """Those tokens, ascending, int64 [m]; `count` entries are the budget."""
        ...

    def so_far(self, score: Tensor) -> Tensor:
        """`score`, of the latest layer, with all that the layers below it saw: which tokens may still be wanted."""
        ...


class Pooled:
    """`purekv`: the largest attention of any observed row, head and layer so far."""

    def __init__(self, config: MethodConfig, scaling: float, observed: Tensor, masks: PromptMasks, layers: int) -> None:
        """`masks`: of the whole prompt. `observed`: int64 on the CPU, the observed rows' positions in it, ascending."""
        self._normalise, self._scaling, self._carry = config.normalise, scaling, importance.carried(config)
        self._last = layers - 1 if config.one_set else 0  # the first layer whose score is final
        self._suffix = masks.video.shape[1] - int(observed[0])
        observed = observed - int(observed[0])  # among the last rows, all of which flow to the end
        self._observed = observed.to(masks.video.device)
        self._whole = len(observed) == self._suffix
        self._best: Tensor | None = None
        self._loudest: Tensor | None = None  # the maximum with all layers counted in full

    def rows(self, flow: Flow) -> int:
        return self._suffix

    def needs_lse(self, index: int) -> bool:
        return False

    def waits(self, index: int) -> bool:
        return index < self._last

    def score(self, shown: Shown, flow: Flow) -> Tensor | None:
        if shown.query is None:
            return self._best
        query = shown.query if self._whole else shown.query.index_select(2, self._observed)
        at = self._observed + (flow.count - self._suffix)
        plain = self._carry == 1 and not self._normalise
        running = self._best if plain else None  # the kernel takes the maximum on its way
        mass = row_mass(
            query, shown.key, self._scaling, at, shown.key_order, reduce="max", pool_heads=True, running=running
        )
        if plain:
            self._best = self._loudest = mass
            return mass
        if self._normalise:
            mass = importance.normalised(mass, flow.masks)
        self._loudest = importance.running_max(self._loudest, mass)
        self._best = importance.running_max(None if self._best is None else self._carry * self._best, mass)
        return self._best

    def select(self, score: Tensor, count: int, flow: Flow) -> Tensor:
        return keep_best(score, count, flow.masks.protected, flow.masks.valid)

    def narrow(self, rows: Tensor) -> None:
        if self._best is not None and self._loudest is not None:
            self._best, self._loudest = (each.index_select(-1, rows) for each in (self._best, self._loudest))

    def so_far(self, score: Tensor) -> Tensor:
        return score if self._loudest is None else self._loudest

    def ends_at(self) -> int | None:
        return None

    def flowing(self, score: Tensor, count: int) -> Tensor:
        raise NotImplementedError


class ByPolicy:
    """Any policy, through its own functions."""

    def __init__(
        self,
        config: MethodConfig,
        scaling: float,
        observed: Tensor,
        masks: PromptMasks,
        layers: int,
        rotary: Rotary | None = None,
    ) -> None:
        """As for `Pooled`; `rotary`: of the whole prompt."""
        self._policy, self._rotary = make(config.policy, config), rotary
        self._masks, self._scaling, self._layers = masks, scaling, layers
        self._everything = observes(config) == "all"
        self._suffix = masks.video.shape[1] - int(observed[0])

    def rows(self, flow: Flow) -> int:
        return flow.count if self._everything else self._suffix

    def needs_lse(self, index: int) -> bool:
        return self._policy.needs_lse(index)

    def waits(self, index: int) -> bool:
        return False

    def score(self, shown: Shown, flow: Flow) -> Tensor | None:
        key, value = (self._placed(states, flow, shown.source) for states in (shown.key, shown.value))
        query, lse = shown.query, shown.lse
        if query is not None and self._everything:
            query = self._placed(query, flow)
            lse = None if lse is None else self._placed(lse[..., None], flow)[..., 0]
        masks = self._masks
        if flow.positions is not None:
            flows = torch.zeros_like(masks.valid).index_fill_(1, flow.positions, True)
            masks = replace(masks, video=masks.video & flows, after=masks.after & flows, valid=masks.valid & flows)
        scaling, out, rotary = self._scaling, shown.out, self._rotary
        seen = Observation(shown.index, self._layers, query, key, value, lse, scaling, masks, out, rotary)
        score = self._policy.score(seen)
        return score if score is None or flow.positions is None else score.index_select(-1, flow.positions)

    def so_far(self, score: Tensor) -> Tensor:
        return score

    def select(self, score: Tensor, count: int, flow: Flow) -> Tensor:
        return self._policy.select(score, count, flow.masks)

    def narrow(self, rows: Tensor) -> None:
        """Nothing: the policy goes on seeing all positions."""

    def ends_at(self) -> int | None:
        dropper = dropping(self._policy)
        return None if dropper is None else dropper.ends_at(self._layers)

    def flowing(self, score: Tensor, count: int) -> Tensor:
        dropper = dropping(self._policy)
        assert dropper is not None
        return dropper.flows(score, count, self._masks)[0].nonzero()[:, 0]

    def _placed(self, states: Tensor, flow: Flow, source: Tensor | None = None) -> Tensor:
        """[1, H, n, D] of the flow at its places in the prompt, zero elsewhere."""
        if source is not None:
            states = states.index_select(2, source)
        if flow.positions is None:
            return states
        length = self._masks.video.shape[1]
        whole = states.new_zeros(*states.shape[:2], length, states.shape[3])
        return whole.index_copy_(2, flow.positions, states)


def make_scorer(
    config: MethodConfig,
    scaling: float,
    observed: Tensor,
    masks: PromptMasks,
    layers: int,
    rotary: Rotary | None = None,
) -> Scorer:
    """The scorer of a policy."""
    if config.policy == "purekv" and config.observe != "all":
        return Pooled(config, scaling, observed, masks, layers)
    return ByPolicy(config, scaling, observed, masks, layers, rotary)
