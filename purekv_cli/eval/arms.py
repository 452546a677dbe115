"""What is compared: a policy at a budget, and when it prunes.

`known`: the whole prompt, question included, is read before the cache is pruned; the first answer token still comes
from the full cache, which flatters every policy. `unknown`: the video is read and pruned first and the question comes
later, as when a cache is kept for questions to come; this is the harder and more telling way.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig, SparseConfig
from purekv_cli.method.policies import make

When = Literal["known", "unknown"]


@dataclass(frozen=True, slots=True)
class Arm:
    """One row of a quality table."""

    policy: str
    budget: str  # as on the command line
    when: When

    @property
    def config(self) -> MethodConfig:
        """Dense attention throughout, so that only what stays in the cache differs."""
        return MethodConfig(
            policy=self.policy,
            budget=Budget.parse(self.budget),
            observe="question" if self.when == "known" else "video",
            sparse=SparseConfig(enabled=False),
        )


def arms(policies: Sequence[str], budgets: Sequence[str]) -> Iterator[Arm]:
    """Dense once, every other policy at every budget and in both ways, as far as it can do without the question.

    Raises:
        UsageError: no such policy, or a budget that cannot be read.
    """
    yield Arm("dense", "1", "unknown")
    for when in ("unknown", "known"):
        for budget in budgets:
            for policy in policies:
                arm = Arm(policy, budget, when)
                if policy != "dense" and (when == "known" or not make(policy, arm.config).uses_question):
                    yield arm
