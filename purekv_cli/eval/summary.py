"""Graded answers as one line an arm and suite: counts, intervals, and what was lost against dense.

An answer with an error counts for nothing but is counted; differences are over questions that both arms answered.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from purekv_cli.eval.arms import WHENS, When
from purekv_cli.eval.records import Graded
from purekv_cli.eval.statistics import Difference, Interval, difference, wilson

DENSE, OURS, NARRATION = "dense", "purekv", "narration"

Answers = dict[tuple[str, str], Graded]  # by (video, id)


@dataclass(frozen=True, slots=True)
class ArmKey:
    """An arm as results name it."""

    policy: str
    budget: str
    when: When
    propagate: str | None
    sparse: bool
    probe: str | None

    @classmethod
    def of(cls, row: Graded) -> "ArmKey":
        return cls(row.policy, row.budget, row.when, row.propagate, row.sparse, row.probe)

    @property
    def is_baseline(self) -> bool:
        """Whether this is plain dense, which everything is held against."""
        return self.policy == DENSE and not self.sparse and self.propagate is None

    @property
    def label(self) -> str:
        """The policy, and what else its prompt was read with."""
        parts = [self.policy]
        if self.propagate is not None:
            layer, _, share = self.propagate.partition(":")
            parts.append(f"{share} from layer {layer}")
        if self.sparse:
            parts.append("sparse")
        if self.probe:  # "" asks nothing: the template's tokens alone, as for every policy
            parts.append(f"probe {self.probe!r}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Line:
    """One arm in one suite."""

    suite: str
    arm: ArmKey
    videos: int
    asked: int  # questions that were answered
    failed: int  # others: see `errors`
    right: int
    interval: Interval  # Wilson, 95 %, of right / asked
    types: dict[str, tuple[int, int]]  # (right, asked) by type of question
    kv_bytes_full: int  # summed over the answers
    kv_bytes_kept: int
    kl: float | None  # nats, mean over answers
    agreement: float | None
    against_dense: Difference | None  # None: dense itself, or dense was not asked
    narration: Difference | None  # against dense, of narrations alone
    behind_ours: Difference | None  # ours minus this one, at the same budget and moment
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def share(self) -> float:
        return self.right / self.asked if self.asked else 0.0

    @property
    def mean_of_types(self) -> float:
        """Mean over types of the share that was right."""
        return sum(right / asked for right, asked in self.types.values()) / max(1, len(self.types))

    @property
    def kept(self) -> float:
        """Bytes kept, as a share of the full cache's."""
        return self.kv_bytes_kept / self.kv_bytes_full if self.kv_bytes_full else 1.0


def summarise(rows: Iterable[Graded], seed: int = 0) -> list[Line]:
    """One line for every suite and arm, in the order in which they first appear, the strict moments first."""
    found: dict[tuple[str, ArmKey], list[Graded]] = {}
    for row in rows:
        found.setdefault((row.suite, ArmKey.of(row)), []).append(row)
    answers = {name: {(row.video, row.id): row for row in of_arm if not row.error} for name, of_arm in found.items()}
    dense = {suite: given for (suite, arm), given in answers.items() if arm.is_baseline}
    lines = [
        _line(suite, arm, of_arm, answers[suite, arm], dense.get(suite, {}), _ours(answers, suite, arm), seed)
        for (suite, arm), of_arm in found.items()
    ]
    suites = list(dict.fromkeys(line.suite for line in lines))
    return sorted(lines, key=lambda line: (suites.index(line.suite), WHENS.index(line.arm.when)))


def _ours(answers: dict[tuple[str, ArmKey], Answers], suite: str, arm: ArmKey) -> Answers:
    """What our policy answered in the same place."""
    if arm.policy in (OURS, DENSE):
        return {}
    same = ArmKey(OURS, arm.budget, arm.when, arm.propagate, arm.sparse, arm.probe)
    return answers.get((suite, same), {})


def _line(
    suite: str, arm: ArmKey, rows: Sequence[Graded], given: Answers, dense: Answers, ours: Answers, seed: int
) -> Line:
    answered = list(given.values())
    types: dict[str, tuple[int, int]] = {}
    for row in answered:
        right, asked = types.get(row.type, (0, 0))
        types[row.type] = (right + row.right, asked + 1)
    errors: dict[str, int] = {}
    for row in rows:
        if row.error:
            errors[row.error] = errors.get(row.error, 0) + 1
    right = sum(row.right for row in answered)
    narrations = {name: row for name, row in given.items() if row.type == NARRATION}
    return Line(
        suite=suite,
        arm=arm,
        videos=len({row.video for row in answered}),
        asked=len(answered),
        failed=sum(errors.values()),
        right=right,
        interval=wilson(right, len(answered)),
        types=types,
        kv_bytes_full=sum(row.kv_bytes_full for row in answered),
        kv_bytes_kept=sum(row.kv_bytes_kept for row in answered),
        kl=_mean(row.kl for row in answered),
        agreement=_mean(row.agreement for row in answered),
        against_dense=None if arm.is_baseline else _paired(given, dense, seed),
        narration=None if arm.is_baseline else _paired(narrations, dense, seed),
        behind_ours=_paired(ours, given, seed),
        errors=errors,
    )


def _paired(a: Answers, b: Answers, seed: int) -> Difference | None:
    both = [name for name in a if name in b]
    if not both:
        return None
    return difference([a[n].right for n in both], [b[n].right for n in both], [video for video, _ in both], seed)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
