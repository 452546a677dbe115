"""An answerer without a model: a clip is a text file whose first word says how it behaves.

`python -m tests.batch.stub batch ...` is `purekv batch ...` with this answerer in its workers.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purekv_cli.batch.loop import Check
from purekv_cli.batch.outcome import failed
from purekv_cli.errors import ModelUnavailable, UnreadableInput
from purekv_cli.models.registry import Source, resolve


@dataclass(frozen=True, slots=True)
class StubSpec:
    """Answers after `seconds`."""

    timeout: float | None = None
    decoders: int = 1
    seconds: float = 0.0
    refuses: bool = False

    def build(self) -> "Stub":
        if self.refuses:
            raise ModelUnavailable("the weights are gone", "Fetch them again.")
        return Stub(self)


class Stub:
    facts = "stub"

    def __init__(self, spec: StubSpec) -> None:
        self._spec = spec

    def read(self, clip: tuple[str, float | None, float | None], check: Check, *, ahead: bool) -> str:
        path = Path(clip[0])
        if not path.exists():
            raise UnreadableInput(f"{path.name} does not exist", "Check the path.")
        word = path.read_text().split()[0]
        if word == "bad":
            raise UnreadableInput(f"{path.name} is bad", "Mend it.")
        if word == "crash":  # as a decoder that meets a file it should not
            os.kill(os.getpid(), signal.SIGSEGV)
        return word

    def open(self, read: str, question: str) -> "Talk":
        return Talk(read, self._spec)

    def group(self) -> None: ...

    def usable(self) -> bool:
        return True


@dataclass
class Talk:
    word: str
    spec: StubSpec

    def ask(self, question: str, check: Check) -> dict[str, Any]:
        end = time.monotonic() + (3600 if self.word in ("slow", "hang") else self.spec.seconds)
        while time.monotonic() < end:
            time.sleep(0.005)
            if self.word != "hang":
                check()
        if self.word == "odd":
            return failed(ValueError("odd"))
        return {"status": "answered", "answer": f"{question} {self.word}", "stats": {"new_tokens": 2}}

    def join(self, question: str, check: Check) -> None:
        raise NotImplementedError


def _spec(settings: Any, timeout: float | None, decoders: int, together: int) -> StubSpec:
    return StubSpec(timeout, decoders, seconds=float(os.environ.get("STUB_SECONDS", "0")))


@dataclass(frozen=True, slots=True)
class Device:
    type: str = "cpu"


@dataclass(frozen=True, slots=True)
class StubModel:
    """The embedded model's name and nothing of its weight: torch is never imported."""

    source: Source
    device: Device = Device()

    def describe(self) -> str:
        return "stub"


if __name__ == "__main__":
    import purekv_cli.batch.answerer
    from purekv_cli.app import main
    from purekv_cli.batch import run
    from tests.batch import stub  # the module by its name: workers must find the spec's class

    purekv_cli.batch.answerer.VideoSpec = stub._spec  # type: ignore[assignment,misc]
    run.choose_model = lambda *_: stub.StubModel(resolve("demo"))  # type: ignore[assignment,return-value]
    run._check = lambda *_: None  # type: ignore[assignment]
    main(sys.argv[1:])
