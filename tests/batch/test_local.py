"""Worker processes that are killed, hang, crash or refuse, on real processes without a model."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from purekv_cli.batch import driver as driving
from purekv_cli.batch.driver import Driver, Limits
from purekv_cli.batch.job import Item, Job
from purekv_cli.batch.local import LocalPool
from purekv_cli.batch.messages import Message, Ready, Reply
from purekv_cli.errors import ModelUnavailable
from tests.batch.conftest import Stubs
from tests.batch.stub import StubSpec


@pytest.fixture(autouse=True)
def stub_for_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def drive(
    folder: Path, spec: StubSpec, workers: int = 1, said: Any = lambda message: None, questions: int = 1
) -> dict[str, str]:
    """Status of every clip's last question, or the type of its error."""
    records: list[Any] = []
    jobs = [Job(tuple(Item(str(path), str(q)) for q in range(questions))) for path in sorted(folder.iterdir())]
    pool = LocalPool(spec, [{}] * workers)
    try:
        Driver(jobs, pool, Limits(spec.decoders, spec.timeout), records.append, said).run()
    finally:
        pool.close()
    return {Path(r["video"]).stem: r.get("error", {}).get("type", r["status"]) for r in records}


def test_two_workers_share_the_clips(stubs: Stubs) -> None:
    folder = stubs(**{f"clip{i}": "ok" for i in range(8)}, broken="bad")
    pids = set()
    found = drive(folder, StubSpec(seconds=0.05), 2, lambda m: pids.add(m.pid) if isinstance(m, Ready) else None)
    assert found == {f"clip{i}": "answered" for i in range(8)} | {"broken": "UnreadableInput"}
    assert len(pids) == 2


def test_a_worker_that_is_killed_costs_the_clip_in_its_hand(stubs: Stubs) -> None:
    pids: list[int] = []

    def said(message: Message) -> None:
        if isinstance(message, Ready):
            pids.append(message.pid)
        if isinstance(message, Reply) and message.item.question == "0" and len(pids) == 1:
            os.kill(pids[0], signal.SIGKILL)  # at the clip's second question

    found = drive(stubs(a="ok", b="ok", c="ok"), StubSpec(seconds=0.4), 1, said, questions=2)
    assert found == {"a": "WorkerDied", "b": "answered", "c": "answered"}
    assert len(pids) == 2


def test_a_clip_that_crashes_its_decoder_is_survived(stubs: Stubs) -> None:
    found = drive(stubs(a="ok", b="crash", c="ok", d="ok"), StubSpec())
    assert found["b"] == "WorkerDied"
    assert found["c"] == found["d"] == "answered"


@pytest.mark.parametrize("kind", ["slow", "hang"])  # one notices its limit by itself, the other has to be killed
def test_a_clip_that_takes_too_long(stubs: Stubs, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(driving, "GRACE", 0.2)
    found = drive(stubs(a="ok", b=kind, c="ok"), StubSpec(timeout=0.3))
    assert found == {"a": "answered", "b": "TimedOut", "c": "answered"}


def test_a_model_that_cannot_be_loaded(stubs: Stubs) -> None:
    with pytest.raises(ModelUnavailable, match="weights are gone"):
        drive(stubs(a="ok"), StubSpec(refuses=True))


def test_workers_end_with_the_pool_and_with_its_process(stubs: Stubs) -> None:
    pool = LocalPool(StubSpec(), [{}, {}])
    pids = [message.pid for _ in range(2) for _, message in pool.wait(10) if isinstance(message, Ready)]
    channel = pool._channels[0]
    channel.close()  # as when this process is gone
    end = time.monotonic() + 10
    while pool._processes[0].poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    assert pool._processes[0].poll() == 1
    pool.close()
    assert all(process.poll() is not None for process in pool._processes)
    assert pids
