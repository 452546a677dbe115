"""The same batch over Ray: two actors on this machine, one of them killed."""

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from purekv_cli.batch.driver import Driver, Limits
from purekv_cli.batch.job import Item, Job
from purekv_cli.batch.messages import Died, Message, Ready, Reply
from purekv_cli.batch.ray_pool import RayPool
from purekv_cli.errors import ModelUnavailable, OutOfResources
from tests.batch.conftest import Stubs
from tests.batch.stub import StubSpec

pytest.importorskip("ray", reason="the extra [ray] is not installed")


@pytest.fixture(autouse=True)
def stub_for_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def drive(folder: Path, spec: StubSpec, said: Any = lambda message: None) -> Counter[tuple[str, str]]:
    """How often each (clip, status or type of error) was recorded."""
    records: list[Any] = []
    jobs = [Job(tuple(Item(str(path), q) for q in ("who?", "why?"))) for path in sorted(folder.iterdir())]
    pool = RayPool(spec, "local", 2, 1)
    try:
        Driver(jobs, pool, Limits(spec.decoders, spec.timeout), records.append, said).run()
    finally:
        pool.close()
    return Counter((Path(r["video"]).stem, r.get("error", {}).get("type", r["status"])) for r in records)


def test_an_actor_that_is_killed_costs_one_video_and_comes_back(stubs: Stubs) -> None:
    names = [f"clip{index}" for index in range(10)]
    folder = stubs(**{name: "bad" if name == "clip4" else "ok" for name in names})
    pids: list[int] = []
    deaths: list[str] = []
    replies = 0

    def said(message: Message) -> None:
        nonlocal replies
        match message:
            case Ready():
                pids.append(message.pid)
            case Died():
                deaths.append(message.why)
            case Reply():
                replies += 1
                if replies == 1:  # both are at work
                    os.kill(pids[0], signal.SIGKILL)

    found = drive(folder, StubSpec(seconds=0.4), said)
    died = {name for name, status in found if status == "WorkerDied"}
    assert len(deaths) == len(died) == 1
    assert len(set(pids)) == 3  # two, and the one that came for the dead
    assert found["clip4", "UnreadableInput"] == 2
    per_clip = Counter[str]()
    for (name, _), count in found.items():
        per_clip[name] += count
    assert per_clip == dict.fromkeys(names, 2)
    assert sum(count for (_, status), count in found.items() if status == "answered") >= 16


def test_a_clip_that_hangs_is_cut_off(stubs: Stubs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purekv_cli.batch.driver.GRACE", 0.2)
    found = drive(stubs(a="ok", b="hang", c="ok", d="ok"), StubSpec(timeout=0.5))
    assert found == {("b", "TimedOut"): 2} | {(name, "answered"): 2 for name in "acd"}


def test_a_model_that_cannot_be_loaded(stubs: Stubs) -> None:
    with pytest.raises(ModelUnavailable, match="weights are gone"):
        drive(stubs(a="ok"), StubSpec(refuses=True))


def test_a_cluster_that_is_not_there() -> None:
    with pytest.raises(OutOfResources, match="no Ray cluster"):
        RayPool(StubSpec(), "auto", None, None)
