"""What policies keep of a prompt that has been read densely: their own two functions, asked as a prefill asks them.

The order of the questions, who waits for whom, and how many entries a budget is, are the prefill's own code; only the
pruning is written down instead of done, and one score serves several budgets.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from purekv_cli.errors import PureKVError
from purekv_cli.eval.replay_forward import States
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.runtime.cache import CompactLayer
from purekv_cli.runtime.prefill import Prefill
from purekv_cli.runtime.prompt import Prompt

Kept = list[Tensor]  # of every layer int64 [1, Hkv or 1, P], ascending positions, -1 in holes


class _Read(CompactLayer):
    """All entries of a layer; it stays as it is."""

    def __init__(self, index: int, states: States) -> None:
        super().__init__()
        self.index = index
        self.update(states.key, states.value)


class ReadPrompt:
    """One prompt after its dense prefill, to be judged by any number of policies."""

    def __init__(
        self, prompt: Prompt, layers: Sequence[States], scaling: float, decoder: Any = None, positions: Any = None
    ) -> None:
        """`decoder` and the prompt's rotary `positions`: for policies that look at weights or angles."""
        self.prompt, self.states, self.scaling = prompt, layers, scaling
        self.decoder, self.positions = decoder, positions

    @cached_property
    def layers(self) -> list[_Read]:
        return [_Read(index, states) for index, states in enumerate(self.states)]

    @cached_property
    def masks(self) -> PromptMasks:
        """On the device of the states."""
        return self.prompt.masks.map(lambda each: each.to(self.states[0].key.device))

    @property
    def bytes_per_token(self) -> int:
        """K and V of one token over all layers and heads."""
        key = self.states[0].key
        return 2 * len(self.states) * key.shape[1] * key.shape[3] * key.element_size()


class _Judge(Prefill):
    """A prefill that has already run, under one budget; the first of several scores for all of them."""

    def __init__(self, config: MethodConfig, read: ReadPrompt) -> None:
        super().__init__(
            config,
            read.prompt,
            len(read.states),
            read.bytes_per_token,
            decoder=read.decoder,
            positions=read.positions,
        )
        self.begin(0, read.prompt.length)
        self._read = read
        self.kept: dict[int, Tensor] = {}
        self.budgets: list[_Judge] = [self]

    @property
    def prunes(self) -> bool:
        return self._judges

    @property
    def alone(self) -> bool:
        """Whether its scores serve no other budget."""
        return bool(getattr(self._policy, "score_knows_budget", False))

    def judge(self) -> None:
        """Ask the policy, layer by layer."""
        for layer, states in zip(self._read.layers, self._read.states, strict=True):
            lse = states.lse if self._policy.needs_lse(layer.index) else None
            self._observe(layer, layer.index, states.query, lse, self._read.scaling)

    def _masks_on(self, device: torch.device) -> PromptMasks:
        return self._read.masks

    def _prune(self, layer: CompactLayer, score: Tensor) -> None:
        assert isinstance(layer, _Read)
        for budget in self.budgets:
            budget.kept[layer.index] = self._policy.select(score, budget._quota[0], self._read.masks)


def kept(read: ReadPrompt, configs: Sequence[MethodConfig]) -> list[Kept | PureKVError | None]:
    """What a policy keeps in every layer, for configs that differ in nothing but the budget.

    A policy whose score depends on the budget says so in a class variable `score_knows_budget`; then it scores anew for
    each.

    Args:
        read: one prompt, not a batch.

    Returns:
        For every config the layers' sets, None where everything stays, or why there are none.
    """
    judges: list[_Judge | PureKVError] = []
    for config in configs:
        try:
            judges.append(_Judge(config, read))
        except PureKVError as error:
            judges.append(error)
    pruning = [judge for judge in judges if isinstance(judge, _Judge) and judge.prunes]
    for group in [[judge] for judge in pruning] if pruning and pruning[0].alone else [pruning] if pruning else []:
        group[0].budgets = group
        try:
            group[0].judge()
        except PureKVError as error:
            judges = [error if judge in group else judge for judge in judges]
    layers = range(len(read.states))
    return [
        judge if isinstance(judge, PureKVError) else [judge.kept[n] for n in layers] if judge.prunes else None
        for judge in judges
    ]
