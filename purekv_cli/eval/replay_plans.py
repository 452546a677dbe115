"""What every arm keeps for every question of a clip, as rows that `replay_rows` can read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from purekv_cli.errors import PureKVError
from purekv_cli.eval.arms import Arm
from purekv_cli.eval.replay_judge import Kept, kept
from purekv_cli.eval.replay_own import entries, own_prefill, prefills_itself
from purekv_cli.eval.replay_prefill import Captured
from purekv_cli.eval.replay_rows import Asked, Row
from purekv_cli.runtime.weights import Unsupported


@dataclass(frozen=True, slots=True)
class Plan:
    """One arm of one question."""

    row: Row
    entries: int  # of all layers together, in the tensors of the cache before anything is fed after the pruning


class Plans:
    """Of one clip; what does not depend on the question is found once."""

    def __init__(self, clip: Captured, asked: Sequence[Asked]) -> None:
        self._clip, self._asked = clip, asked
        self._shared: dict[Arm, Plan | str] = {}

    def of(self, number: int, arms: Sequence[Arm]) -> list[Plan | str]:
        """For the question of that number, or why there is none."""
        found = {arm: self._shared[arm] for arm in arms if arm in self._shared}
        for arm in arms:
            if arm not in found:
                alike = [other for other in arms if replace(other, budget="") == replace(arm, budget="")]
                found |= zip(alike, self._of_budgets(number, alike), strict=True)
        self._shared |= {arm: plan for arm, plan in found.items() if arm.when == "unknown"}
        return [found[arm] for arm in arms]

    def _of_budgets(self, number: int, arms: Sequence[Arm]) -> list[Plan | str]:
        """For arms that differ in nothing but the budget."""
        clip, first = self._clip, arms[0]
        asked = self._asked[0 if first.when == "unknown" else number]
        tail = len(asked.tail)
        texts, row, text, room = asked.texts, asked.row, asked.tail, 0
        if first.when == "unknown" and first.probe is None:
            text, room = text[:0], tail
        elif first.when == "unknown":
            text = clip.adapter.tail(first.probe or "")[0]
            texts, row, room = clip.texts([text]), 0, tail - len(text)
        after = first.when == "prompt"
        if prefills_itself(first):
            return [self._own(arm, text, room, after) for arm in arms]
        read = clip.prompt(texts, row, len(text), room)
        sets = kept(read, [arm.config for arm in arms])
        holes = iter(_has_holes([each for each in sets if isinstance(each, list)]))
        return [
            self._plan(each, next(holes), len(text), after)
            if isinstance(each, list)
            else str(each)
            if each is not None
            else self._everything(len(text), after)
            for each in sets
        ]

    def _everything(self, text: int, after: bool) -> Plan:
        entries = self._clip.length + (text if after else 0)
        return Plan(Row((), False, after), entries * len(self._clip.states))

    def _plan(self, layers: Kept, holes: bool, text: int, after: bool) -> Plan:
        """Of positions in a prompt with `text` tokens after the prefix."""
        total = sum(rows.shape[-1] for rows in layers)
        if text and not holes:  # text always stays, and it comes last
            layers = [rows[..., :-text] for rows in layers]
        elif text:
            layers = [_below(rows, self._clip.length) for rows in layers]
        row = Row(tuple(rows[0] for rows in layers), holes, after)
        return Plan(row, total if after else sum(rows.shape[-1] for rows in layers))

    def _own(self, arm: Arm, text: Tensor, room: int, after: bool) -> Plan | str:
        try:
            cache, first = own_prefill(self._clip, arm, text, room)
        except (PureKVError, Unsupported) as error:
            return str(error)
        pasts = entries(cache, None if after else self._clip.length)
        count = sum(past.key.shape[2] for past in pasts)
        return Plan(Row(tuple(pasts), False, after, first if after else None), count)


def _has_holes(sets: Sequence[Kept]) -> Iterator[bool]:
    """Of every set, whether some head keeps fewer entries than others; asks the device once."""
    ends = [torch.stack([rows[..., -1].amin() for rows in layers]).amin() for layers in sets]
    return iter((torch.stack(ends) < 0).tolist() if ends else [])


def _below(rows: Tensor, length: int) -> Tensor:
    """Only positions under `length`, ascending, -1 at the end of heads with fewer."""
    beyond = (rows < 0) | (rows >= length)
    most = int((~beyond).sum(-1).max())
    rows = rows.masked_fill(beyond, length).sort(-1).values[..., :most]
    return rows.masked_fill(rows == length, -1)
