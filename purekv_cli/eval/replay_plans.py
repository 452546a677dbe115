"""What every arm keeps for every question of a clip, as rows that `replay_rows` can read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from purekv_cli.errors import PureKVError
from purekv_cli.eval.arms import Arm
from purekv_cli.eval.replay_judge import Kept, ReadPrompt, kept
from purekv_cli.eval.replay_own import entries, own_prefill, prefills_itself
from purekv_cli.eval.replay_prefill import Captured
from purekv_cli.eval.replay_rows import Asked, Row
from purekv_cli.runtime.weights import Unsupported

Found = Kept | PureKVError | None  # of replay_judge.kept


@dataclass(frozen=True, slots=True)
class Plan:
    """One arm of one question."""

    row: Row
    entries: int  # of all layers together, in the tensors of the cache before anything is fed after the pruning


class Plans:
    """Of one clip; what does not depend on the question, or on what happens after pruning, is found once."""

    def __init__(self, clip: Captured, asked: Sequence[Asked]) -> None:
        self._clip, self._asked = clip, asked
        self._shared: dict[Arm, Plan | str] = {}
        self._prompts: dict[tuple[int, str | None, bool], tuple[Tensor, ReadPrompt]] = {}

    def of(self, number: int, arms: Sequence[Arm]) -> list[Plan | str]:
        """For the question of that number, or why there is none."""
        found = {arm: self._shared[arm] for arm in arms if arm in self._shared}
        for arm in arms:
            if arm not in found:
                alike = [other for other in arms if _kind(other) == _kind(arm)]
                found |= zip(alike, self._of_kind(number, alike), strict=True)
        self._shared |= {arm: plan for arm, plan in found.items() if arm.when == "unknown"}
        return [found[arm] for arm in arms]

    def _of_kind(self, number: int, arms: Sequence[Arm]) -> list[Plan | str]:
        """For arms that differ in the budget, or in what happens once the whole prompt has been pruned."""
        first = arms[0]
        text, read = self._read(0, first.probe, True) if first.when == "unknown" else self._read(number, None, False)
        if prefills_itself(first):
            return self._own(arms, text, read)
        budgets = list(dict.fromkeys(arm.budget for arm in arms))
        configs = [replace(first, budget=budget).of_model(self._clip.adapter.name) for budget in budgets]
        sets = dict(zip(budgets, kept(read, configs), strict=True))
        return [self._plan(sets[arm.budget], len(text), arm.when == "prompt") for arm in arms]

    def _read(self, number: int, probe: str | None, unknown: bool) -> tuple[Tensor, ReadPrompt]:
        """The text that follows the video while it is pruned, int64 [n], and the prompt of both, read once."""
        if (number, probe, unknown) not in self._prompts:
            clip, asked, room = self._clip, self._asked[number], 0
            texts, row, text = asked.texts, asked.row, asked.tail
            if unknown:
                text = clip.adapter.tail(probe or "")[0]
                if probe is None:  # nothing is read, but counted, as `Session.ask` does
                    text, room = text[:0], len(text)
                if len(text):
                    texts, row = clip.texts([text]), 0
            self._prompts[number, probe, unknown] = text, clip.prompt(texts, row, len(text), room)
        return self._prompts[number, probe, unknown]

    def _plan(self, found: Found, text: int, after: bool) -> Plan | str:
        """Of positions in a prompt with `text` tokens after the prefix: text always stays, and it comes last."""
        if isinstance(found, PureKVError):
            return str(found)
        if found is None:
            count = self._clip.length + (text if after else 0)
            return Plan(Row((), False, after), count * len(self._clip.states))
        layers = tuple(_without_text(rows, text, found.holes, self._clip.length) for rows in found.layers)
        total = sum(rows.shape[-1] for rows in (found.layers if after else layers))
        return Plan(Row(layers, found.holes, after), total)

    def _own(self, arms: Sequence[Arm], text: Tensor, read: ReadPrompt) -> list[Plan | str]:
        """The same for arms with a prefill of their own, one for every budget."""
        found: dict[tuple[str, bool], Plan | str] = {}
        for budget in dict.fromkeys(arm.budget for arm in arms):
            try:
                cache, first = own_prefill(self._clip, replace(arms[0], budget=budget), text, read)
            except (PureKVError, Unsupported) as error:
                found[budget, True] = found[budget, False] = str(error)
                continue
            for after in (True, False):  # in this order: what is forgotten is gone
                pasts = entries(cache, None if after else self._clip.length)
                count = sum(past.key.shape[2] for past in pasts)
                found[budget, after] = Plan(Row(tuple(pasts), False, after, first if after else None), count)
        return [found[arm.budget, arm.when == "prompt"] for arm in arms]


def _kind(arm: Arm) -> Arm:
    """The same for arms that are judged together: the whole prompt is pruned alike, whether it is fed again or not."""
    return replace(arm, budget="", when="known" if arm.when == "prompt" else arm.when)


def _without_text(rows: Tensor, text: int, holes: bool, length: int) -> Tensor:
    """Positions int64 [Hkv or 1, k] under `length`, of every head `text` fewer."""
    if not text:
        return rows
    if not holes:
        return rows[:, :-text]
    beyond = (rows < 0) | (rows >= length)
    rows = rows.masked_fill(beyond, length).sort(-1).values[:, :-text]
    return rows.masked_fill(rows == length, -1)
