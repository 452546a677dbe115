"""What workers tell the driver, and what the driver asks of any pool of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from purekv_cli.batch.job import Item, Job
from purekv_cli.errors import PureKVError

FATAL = 1  # a Refused whose error is of no type of ours


class TimedOut(PureKVError):
    """A video took longer than --timeout."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded."""

    facts: str  # "demo, float32 on cpu"
    pid: int


@dataclass(frozen=True, slots=True)
class Reply:
    """An item is finished, one way or the other."""

    item: Item
    outcome: Mapping[str, Any]  # the record's fields beside the item's own


@dataclass(frozen=True, slots=True)
class Done:
    """The jobs in hand are finished."""

    videos: int = 1


@dataclass(frozen=True, slots=True)
class Died:
    """The worker's process is gone; another one is being started."""

    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The model cannot be loaded here: no worker will do better."""

    exit_code: int
    what: str
    hint: str


Message = Ready | Reply | Done | Died | Refused


class Pool(Protocol):
    """Workers by number. Each does the jobs it is given and reads ahead for the ones that will follow."""

    size: int

    def submit(self, worker: int, jobs: Sequence[Job], ahead: Sequence[Job]) -> None:
        """Give a ready worker its jobs; `ahead` are those it will be given next."""
        ...

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        """What workers say, as soon as one does, in the order said."""
        ...

    def kill(self, worker: int) -> None:
        """End a worker that hangs in its job; it will be reported as `Died`."""
        ...

    def close(self) -> None:
        """End all workers at once."""
        ...
