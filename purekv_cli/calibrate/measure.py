"""One clip after another: its dense prefill, correlations between its layers, and what every trial costs on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from purekv_cli.calibrate.correlation import OBSERVED, Matrix, correlations, summed_up
from purekv_cli.calibrate.questions import asked_of
from purekv_cli.calibrate.trials import Trial
from purekv_cli.errors import UsageError
from purekv_cli.eval.records import Item
from purekv_cli.eval.replay_plans import Plans
from purekv_cli.eval.replay_prefill import Captured, captured
from purekv_cli.eval.replay_rows import Asked, Row, tell
from purekv_cli.method.config import Observe
from purekv_cli.models.base import Adapter
from purekv_cli.runtime.weights import Unsupported
from purekv_cli.video.frames import Frames


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one trial on one question."""

    video: int
    question: int  # counted over all videos
    distance: float  # of the trial from dense, 0 to 1: see `distance`
    right: bool  # every token of the answer and its end was the first choice
    kept: float  # entries, as a share of the prefix's in all layers


@dataclass(slots=True)
class Measured:
    """What has been seen so far."""

    videos: int = 0
    questions: int = 0
    dense_right: int = 0
    tokens: list[int] = field(default_factory=list)  # of every clip's prefix
    outcomes: dict[Trial, list[Outcome]] = field(default_factory=dict)
    errors: dict[Trial, str] = field(default_factory=dict)
    found: dict[Observe, list[Tensor]] = field(default_factory=lambda: {observe: [] for observe in OBSERVED})

    def matrices(self) -> dict[Observe, Matrix]:
        return {observe: summed_up(observe, found) for observe, found in self.found.items()}

    @torch.inference_mode()
    def add(
        self,
        adapter: Adapter,
        items: Sequence[Item],
        frames: Frames,
        tried: Sequence[Trial],
        longest: int,
        *,
        correlate: bool = False,
    ) -> None:
        """Measure one clip; the correlations between its layers only where they are asked for.

        Raises:
            UsageError: the model's decoder is not of the build that can be read layer by layer.
        """
        try:
            clip = captured(adapter, frames)
        except Unsupported as reason:
            raise UsageError(
                f"this model cannot be calibrated: {reason}", "Start from a preset of a similar model (purekv presets)."
            ) from reason
        every = asked_of(clip, items, longest)
        plans = Plans(clip, every)
        for number, asked in enumerate(every):
            if correlate:
                self._correlate(clip, asked, first=number == 0)
            self._try(clip, asked, tried, plans, number, longest)
            self.questions += 1
        self.videos += 1
        self.tokens.append(clip.length)

    def _correlate(self, clip: Captured, asked: Asked, first: bool) -> None:
        """The question's rows of every question; the others hardly depend on it, and are read once."""
        read = clip.prompt(asked.texts, asked.row, len(asked.tail))
        for observe in OBSERVED if first else ("question",):
            self.found[observe].append(correlations(read, observe).cpu())

    def _try(
        self, clip: Captured, asked: Asked, tried: Sequence[Trial], plans: Plans, number: int, longest: int
    ) -> None:
        rows: dict[Trial, Row] = {}
        for trial, plan in zip(tried, plans.of(number, [trial.arm for trial in tried]), strict=True):
            if isinstance(plan, str):
                self.errors.setdefault(trial, plan)
            else:
                rows[trial] = plan.row
        total = clip.length * len(clip.states)
        told = tell(clip, asked, [*rows.values(), Row((), False, False)])
        answer, cut = asked.truth.tolist(), len(asked.truth) == longest  # one that was cut short has no end
        right = [chosen[:-1] == answer and (cut or chosen[-1] in clip.adapter.stop_ids) for chosen, _, _ in told]
        self.dense_right += right[-1]
        for (trial, row), (_, kl, _), fine in zip(rows.items(), told, right, strict=False):
            far = distance(kl * (len(answer) + 1))
            outcome = Outcome(self.videos, self.questions, far, fine, _entries(row, total) / total)
            self.outcomes.setdefault(trial, []).append(outcome)


def distance(kl: float) -> float:
    """1 - exp(-KL), of dense || trial over a whole answer and its end: KL where that is small, and never above 1.

    A few lost answers then do not outweigh all others. Its root bounds the total variation (Bretagnolle, Huber, 1979).
    """
    return -math.expm1(-max(kl, 0.0))


def _entries(row: Row, total: int) -> int:
    """Places of all layers together; `total` if everything stays."""
    if not row.kept:
        return total
    return sum(part.shape[-1] if isinstance(part, Tensor) else part.key.shape[2] for part in row.kept)
