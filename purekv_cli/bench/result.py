"""What a bench found, as plain values: raw times of every run, and what is derived from them."""

from dataclasses import dataclass, field

from purekv_cli.bench.arms import Arm
from purekv_cli.bench.measure import Limits, Spread


@dataclass(frozen=True, slots=True)
class Times:
    """One run, in seconds."""

    prefill: float  # embeddings to the last token's logits
    first_token: float  # embeddings to the first token in the host's hands, with all that decoding needs set up
    token: float  # every further one


@dataclass(frozen=True, slots=True)
class Costs:
    """What does not change from run to run, taken in a run that is not timed. Bytes are of tensors that exist."""

    scoring: float  # seconds, of the parts that choose what stays
    kv_kept: int
    kv_peak: int  # most K and V bytes alive at once during prefill
    memory_peak: int | None  # most bytes of the allocator; None where it does not count
    flops: float  # of one prefill
    floor: float  # seconds a token cannot beat
    sparse: bool  # whether ST-SpAttn ran


@dataclass(slots=True)
class Row:
    """One arm at one length."""

    label: str
    tokens: int
    arm: Arm
    runs: list[Times] = field(default_factory=list)
    costs: Costs | None = None
    failure: str | None = None  # why there are no times

    @property
    def prefill(self) -> Spread:
        return Spread.of([run.prefill for run in self.runs])

    @property
    def first_token(self) -> Spread:
        return Spread.of([run.first_token for run in self.runs])

    @property
    def token(self) -> Spread:
        return Spread.of([run.token for run in self.runs])

    @property
    def measured(self) -> bool:
        return bool(self.runs) and self.costs is not None


@dataclass(frozen=True, slots=True)
class Stages:
    """One run from a file to the first token, in seconds."""

    decode: float  # opening the file to the last frame in memory; ours computes features meanwhile
    prepare: float  # frames to patches on the device
    vision: float  # to the prompt's embeddings
    prefill: float  # of the language model
    first_token: float  # the whole wait


@dataclass(slots=True)
class Walk:
    """One arm from the file on."""

    label: str
    tokens: int
    arm: Arm
    runs: list[Stages] = field(default_factory=list)
    failure: str | None = None

    def stage(self, name: str) -> Spread:
        """Of one field of `Stages`."""
        return Spread.of([getattr(run, name) for run in self.runs])


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison of the gate."""

    name: str
    ok: bool
    detail: str
    covers: frozenset[str]  # kinds of arms that must not show a speed-up when it is red


@dataclass(slots=True)
class Result:
    """Everything of one bench."""

    facts: dict[str, object]  # device, versions, model, command line
    limits: Limits
    checks: list[Check] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    walks: list[Walk] = field(default_factory=list)
    interrupted: bool = False

    def red(self, kind: str) -> list[Check]:
        """Failed checks that stand before rows of this kind."""
        return [check for check in self.checks if not check.ok and kind in check.covers]

    def stock_walk(self) -> Walk | None:
        """The baseline from the file on, once it has been measured."""
        return next((walk for walk in self.walks if walk.arm.is_stock and walk.runs), None)

    @property
    def green(self) -> bool:
        return all(check.ok for check in self.checks)

    def stock(self, label: str) -> Row | None:
        """The baseline of a length, once it has been measured."""
        return next((row for row in self.rows if row.label == label and row.arm.is_stock and row.measured), None)
