"""The contract of a policy: two small functions, score and select, over what one layer shows in prefill."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast

from torch import Tensor

from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks


@dataclass(frozen=True, slots=True)
class Rotary:
    """How queries and keys of a prompt are turned: x cos + half(x) sin, half(a, b) = (-b, a)."""

    cos: Tensor  # [B, N, D]
    sin: Tensor  # [B, N, D]
    ahead: Callable[[int], tuple[Tensor, Tensor]]  # cos and sin of the next n text positions, [B, n, D]


@dataclass(frozen=True, slots=True)
class Observation:
    """What a policy may look at, right after layer `index` has attended in prefill.

    `query` and `lse` are None when a layer that had to wait for its score is asked again. They hold the last M of the N
    rows: all of them (M = N) unless the prompt came in chunks and only the observed rows were kept.
    """

    index: int
    layers: int
    query: Tensor | None  # [B, Hq, M, D], rotated
    key: Tensor  # [B, Hkv, N, D], rotated
    value: Tensor  # [B, Hkv, N, D]
    lse: Tensor | None  # float32 [B, Hq, M], natural log; None unless the policy asks for it
    scaling: float
    masks: PromptMasks
    out: Tensor | None = None  # [hidden, Hq * D], weight of the layer's output projection; None: not at hand
    rotary: Rotary | None = None  # of the N positions, for a policy that `needs_rotary`; None: not at hand


class Policy(Protocol):
    """One object a prefill: it may remember what lower layers showed.

    A policy whose formula names the rows it reads, whatever the dial `observe` says, says so in a class variable
    `observes` ("question", "video" or "all"): the engine hands over at least those (see `policies.observes`). One that
    reads `Observation.rotary` sets `needs_rotary`, one that ends tokens inside the model is a `Dropping`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]  # one line
    source: ClassVar[str]  # paper and equation

    def __init__(self, config: MethodConfig) -> None: ...

    @property
    def uses_question(self) -> bool:
        """Whether the score looks at the text after the video: then a kept cache serves one question only, unless that
        text asks nothing (`policies.shares_prefill`), and chunks wait for it."""
        ...

    def needs_lse(self, index: int) -> bool:
        """Whether layer `index` must hand over the log-sum-exp of its rows; such a layer attends densely."""
        ...

    def score(self, seen: Observation) -> Tensor | None:
        """Importance of every entry, float32 [B, Hkv or 1, N]; None: not known yet, ask again at a later layer."""
        ...

    def select(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        """Positions to keep, ascending, int64 [B, Hkv or 1, P]; rows with fewer are padded at the end with -1.

        It is asked right after the layer's score, before any other layer's.
        `entries` is one number, or int64 [B] where the prompts of a batch differ in length.
        """
        ...


class Dropping(Policy, Protocol):
    """A policy that ends tokens inside the model: above a layer their hidden states are not computed either."""

    drops_tokens: ClassVar[bool]  # True

    def ends_at(self, layers: int) -> int:
        """The layer that tokens end in: it still has keys and values of all, those above see only what flows."""
        ...

    def flows(self, score: Tensor, entries: int | Tensor, masks: PromptMasks) -> Tensor:
        """The tokens that go on, bool [B, N], text and the last token among them; by the score of layer `ends_at`."""
        ...


def dropping(policy: Policy) -> Dropping | None:
    """The policy if it ends tokens inside the model."""
    return cast(Dropping, policy) if getattr(policy, "drops_tokens", False) else None
