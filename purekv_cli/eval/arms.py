"""What is compared: a policy at a budget, and the moment at which it prunes.

`unknown`: the video is read and pruned before the question is known, as when a cache is kept for questions to come.
`known`: the policy sees the whole prompt, the video's cache is pruned, and the question is fed again over what stayed,
so even the first answer token comes from the pruned cache. `prompt`: after the whole prompt, as `purekv ask` does; the
first answer token still comes from the full cache, which flatters every policy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig, Observe, Propagation, SparseConfig
from purekv_cli.method.policies import make
from purekv_cli.presets import choose

When = Literal["unknown", "known", "prompt"]
WHENS: tuple[When, ...] = ("unknown", "known", "prompt")
OF_MODEL = ("score_layers", "layer_weights", "preamble_layers", "preamble_share", "carry")  # what presets alone say
_UNKNOWN: dict[str | None, Observe] = {None: "video", "": "template"}  # who speaks where the question is unknown


@dataclass(frozen=True, slots=True)
class Arm:
    """One row of a quality table."""

    policy: str
    budget: str  # as on the command line
    when: When
    propagate: str | None = None  # as on the command line, such as "4:0.35"; None: every token flows through all layers
    sparse: bool = False  # the prompt is read with ST-SpAttn, however short; False: densely
    probe: str | None = None  # with `unknown`: asked after the video while it is pruned, then forgotten; "" asks
    # nothing: only the template's tokens speak, as with --observe template; None: nothing follows the video

    @property
    def config(self) -> MethodConfig:
        """The method's dials; dense attention unless the arm says otherwise, so that only what stays differs.

        Raises:
            UsageError: a budget or a propagation that cannot be read.
        """
        return MethodConfig(
            policy=self.policy,
            budget=Budget.parse(self.budget),
            observe=_UNKNOWN.get(self.probe, "question") if self.when == "unknown" else "question",
            sparse=SparseConfig(enabled=self.sparse, min_tokens=0),
            propagate=None if self.propagate is None else Propagation.parse(self.propagate),
        )

    def of_model(self, name: str) -> MethodConfig:
        """`config` with what the preset of that model says of its layers."""
        known = choose(None, [name]).method
        return replace(self.config, **{name: getattr(known, name) for name in OF_MODEL})


def arms(
    policies: Sequence[str],
    budgets: Sequence[str],
    whens: Sequence[When] = WHENS,
    *,
    propagate: str | None = None,
    sparse: bool = False,
    probe: str | None = None,
) -> Iterator[Arm]:
    """Dense once, then every other policy at every budget and moment.

    Where the question is unknown every policy is shown the probe after the video; None: the video alone, and its last
    rows speak.

    Raises:
        UsageError: no such policy, or a budget or propagation that cannot be read.
    """
    yield Arm("dense", "1", "unknown")
    for when in whens:
        for budget in budgets:
            for policy in policies:
                arm = Arm(policy, budget, when, propagate, sparse, probe if when == "unknown" else None)
                make(policy, arm.config)
                if policy != "dense":
                    yield arm
