"""What `purekv eval` was asked for, read from its flags: arms, suites, clips. Nothing is loaded yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from purekv_cli.bench.request import read_names
from purekv_cli.demo.clips import HELD_OUT_SEEDS, SUITES
from purekv_cli.errors import UsageError, unknown
from purekv_cli.eval.arms import WHENS, Arm, When, arms
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import Propagation
from purekv_cli.method.policies import POLICIES

if TYPE_CHECKING:
    from purekv_cli.commands.eval import EvalFlags

CLIPS, QUESTIONS, SUITES_ASKED = 200, 5, "short,medium,long"
FIRST_SEED = 20_000  # of clips for results: nothing was chosen by looking at them (docs/method.md, Seeds)
QUICK_CLIPS, QUICK_QUESTIONS, QUICK_SUITES = 8, 4, "short,medium"
_DENSE = "dense"


@dataclass(frozen=True, slots=True)
class World:
    """Which clips of the rendered world."""

    suites: tuple[str, ...]
    clips: int  # of each suite
    first_seed: int
    questions: int  # of each clip

    @property
    def seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.clips)


def read_arms(flags: "EvalFlags") -> tuple[Arm, ...]:
    """Plain dense first, then every policy, budget, moment, propagation, without and with sparse attention.

    At a budget of 1 nothing is pruned: a policy is dense there, and has no row of its own.

    Raises:
        UsageError: a name or value that is unknown.
    """
    policies = list(POLICIES) if flags.policy == "all" else list(read_names(flags.policy))
    for name in policies:
        if name not in POLICIES:
            raise unknown("policy", name, [*POLICIES, "all"])
    budgets = _parts("budget", flags.budget)
    whole = {text for text in budgets if Budget.parse(text) == Budget("fraction", 1.0)}
    compared: list[Arm] = []
    for sparse in (False, True) if flags.sparse else (False,):
        for text in _parts("propagation", flags.propagate):
            propagate = text if Propagation.parse(text) else None
            every = arms(policies, budgets, read_whens(flags.when), propagate=propagate, sparse=sparse, probe="")
            compared += [arm for arm in every if sparse or propagate or arm.policy == _DENSE or arm.budget not in whole]
    if flags.sparse:
        compared.append(Arm(_DENSE, "1", "unknown", None, True))
    return tuple(dict.fromkeys(compared))


def read_whens(text: str) -> tuple[When, ...]:
    """ "known,prompt" -> the moments, the strict ones first."""
    wanted = _parts("moment", text)
    for name in wanted:
        if name not in WHENS:
            raise unknown("moment of pruning", name, WHENS)
    return tuple(when for when in WHENS if when in wanted)


def read_world(flags: "EvalFlags") -> World:
    """The clips that are meant; --quick sets what is not given."""
    suites = _parts("suite", flags.suite or (QUICK_SUITES if flags.quick else SUITES_ASKED))
    for name in suites:
        if name not in SUITES:
            raise unknown("suite", name, SUITES)
    clips = flags.clips or (QUICK_CLIPS if flags.quick else CLIPS)
    questions = flags.questions or (QUICK_QUESTIONS if flags.quick else QUESTIONS)
    first = FIRST_SEED if flags.first_seed is None else flags.first_seed
    world = World(tuple(suites), min(clips, flags.limit or clips), first, questions)
    if world.seeds.stop > HELD_OUT_SEEDS.stop:
        raise UsageError(
            f"seeds up to {world.seeds.stop - 1} are not all held out from training",
            f"Take seeds below {HELD_OUT_SEEDS.stop}.",
        )
    return world


def read_suites(flags: "EvalFlags", known: Sequence[str]) -> tuple[str, ...]:
    """The suites of a data set that are wanted; all of them if none is named."""
    wanted = _parts("suite", flags.suite) if flags.suite else known
    for name in wanted:
        if name not in known:
            raise unknown("suite", name, known)
    return tuple(wanted)


def _parts(kind: str, text: str) -> list[str]:
    parts = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise UsageError(f"there is no {kind} in {text!r}", "Separate several with commas.")
    return parts
