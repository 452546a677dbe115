"""What policies keep of a prompt that has been read densely: their own two functions, asked as a prefill asks them.

The order of the questions, who waits for whom, and how many entries a budget is, are the prefill's own code; only the
pruning is written down instead of done, and one score serves several budgets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from purekv_cli.errors import PureKVError
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks
from purekv_cli.runtime.cache import CompactLayer
from purekv_cli.runtime.prefill import Prefill
from purekv_cli.runtime.prompt import Prompt
from purekv_cli.runtime.states import States


@dataclass(frozen=True, slots=True)
class Kept:
    """What one policy at one budget keeps of a prompt."""

    layers: tuple[Tensor, ...]  # of every layer int64 [Hkv or 1, k], ascending positions, -1 in holes
    holes: bool  # whether some head keeps fewer than others


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
        self._budgets: list[_Judge] = []
        self._sets: dict[int, Tensor] = {}

    @property
    def prunes(self) -> bool:
        return self._judges

    @property
    def alone(self) -> bool:
        """Whether its scores serve no other budget."""
        return bool(getattr(self._policy, "score_knows_budget", False))

    def judge(self, budgets: list["_Judge"]) -> list[Kept]:
        """Ask the policy, layer by layer, for itself and others of other budgets; waits for the device once."""
        self._budgets = budgets
        for layer, states in zip(self._read.layers, self._read.states, strict=True):
            lse = states.lse if self._policy.needs_lse(layer.index) else None
            self._observe(layer, layer.index, states.query, lse, self._read.scaling)
        layers = [self._sets[index] for index in range(len(self._read.states))]
        counts = [(rows >= 0).sum(-1) for rows in layers]  # [budgets, Hkv or 1]
        ends = torch.stack([torch.stack([count.amin(1), count.amax(1)]) for count in counts], 2)
        least, most = ends.tolist()
        return [
            Kept(tuple(rows[n, :, :count] for rows, count in zip(layers, most[n], strict=True)), least[n] != most[n])
            for n in range(len(budgets))
        ]

    def _masks_on(self, device: torch.device) -> PromptMasks:
        return self._read.masks

    def _prune(self, layer: CompactLayer, index: int, score: Tensor) -> None:
        """Several budgets are asked for as a batch of prompts."""
        assert isinstance(layer, _Read)
        quotas = [budget._quota[0][index] for budget in self._budgets]
        if len(quotas) == 1:
            choice = self._budgets[0]._choice(index, score.device)
            self._sets[layer.index] = self._policy.select(score, quotas[0], choice)
            return
        entries = torch.tensor(quotas, device=score.device)
        every = self._read.masks.map(lambda each: each.expand(len(quotas), -1))
        if any(bare := [budget._bare[0][index] for budget in self._budgets]):
            every = every.without_preamble(torch.tensor(bare, device=score.device))
        self._sets[layer.index] = self._policy.select(score.expand(len(quotas), -1, -1), entries, every)


def kept(read: ReadPrompt, configs: Sequence[MethodConfig]) -> list[Kept | PureKVError | None]:
    """What a policy keeps in every layer, for configs that differ in nothing but the budget.

    It scores once, and selects for all budgets as if they were prompts of a batch. A policy whose score depends on the
    budget, or that cannot select so, says it in a class variable `score_knows_budget`; then it is asked for each alone.

    Args:
        read: one prompt, not a batch.

    Returns:
        For every config its sets, None where everything stays, or why there are none.
    """
    found: list[Kept | PureKVError | None] = [None] * len(configs)
    pruning: dict[int, _Judge] = {}
    for number, config in enumerate(configs):
        try:
            judge = _Judge(config, read)
        except PureKVError as error:
            found[number] = error
        else:
            if judge.prunes:
                pruning[number] = judge
    groups = [list(pruning)] if pruning else []
    if pruning and next(iter(pruning.values())).alone:
        groups = [[number] for number in pruning]
    for numbers in groups:
        try:
            sets: list[Any] = pruning[numbers[0]].judge([pruning[number] for number in numbers])
        except PureKVError as error:
            sets = [error] * len(numbers)
        for number, each in zip(numbers, sets, strict=True):
            found[number] = each
    return found
