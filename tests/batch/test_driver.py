"""Who gets which job, and who pays when a worker dies. The pool here is a script."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.batch.driver import Driver, Limits
from purekv_cli.batch.job import Item, Job
from purekv_cli.batch.messages import Died, Done, Message, Ready, Refused, Reply
from purekv_cli.errors import ModelUnavailable, OutOfResources


class Script:
    """A pool whose workers die at the jobs they are told to, and answer everything else."""

    def __init__(self, size: int = 1, deaths: Sequence[str] = (), ahead_kills: Sequence[str] = ()) -> None:
        self.size = size
        self.given: list[tuple[int, str, list[str]]] = []
        self.said: list[tuple[int, Message]] = [(worker, Ready("script", worker)) for worker in range(size)]
        self._deaths = list(deaths)
        self._ahead_kills = set(ahead_kills)  # decoding one of these kills whoever does

    def submit(self, worker: int, jobs: Sequence[Job], ahead: Sequence[Job]) -> None:
        names, coming = ([job.items[0].video for job in some] for some in (jobs, ahead))
        self.given.append((worker, " ".join(names), coming))
        for job, name in zip(jobs, names, strict=True):
            if name in self._deaths or {*names, *coming} & self._ahead_kills:
                if name in self._deaths:
                    self._deaths.remove(name)
                self.said += [(worker, Died("SIGKILL")), (worker, Ready("script", worker))]
                return
            outcome = {"status": "failed" if "bad" in name else "answered"}
            self.said += [(worker, Reply(item, outcome)) for item in job.items]
        self.said.append((worker, Done()))

    def wait(self, seconds: float) -> list[tuple[int, Message]]:
        said, self.said = self.said[:1], self.said[1:]
        return said

    def kill(self, worker: int) -> None: ...

    def close(self) -> None: ...


def drive(pool: Any, names: str, limits: Limits = Limits(), questions: int = 1) -> dict[str, list[str]]:  # noqa: B008
    """Statuses of every video, by its name; one video a word."""
    records: list[Any] = []
    jobs = [Job(tuple(Item(name, str(q)) for q in range(questions))) for name in names.split()]
    Driver(jobs, pool, limits, records.append, lambda message: None).run()
    found: dict[str, list[str]] = {}
    for record in records:
        found.setdefault(record["video"], []).append(record["status"])
    return found


def test_every_item_has_one_record() -> None:
    found = drive(Script(), "a bad b", questions=2)
    assert found == {"a": ["answered"] * 2, "bad": ["failed"] * 2, "b": ["answered"] * 2}


def test_the_next_jobs_are_announced_and_then_given_in_order() -> None:
    pool = Script()
    drive(pool, "a b c d", Limits(decoders=2))
    assert pool.given == [(0, "a", ["b", "c"]), (0, "b", ["c", "d"]), (0, "c", ["d"]), (0, "d", [])]


def test_at_the_end_an_idle_worker_takes_what_another_has_only_begun_to_decode() -> None:
    pool = Script(size=2)
    assert len(drive(pool, "a b c", Limits(decoders=8))) == 3
    assert {worker for worker, _, _ in pool.given} == {0, 1}


def test_a_worker_that_dies_costs_the_job_in_hand_and_no_other() -> None:
    pool = Script(deaths=["b"])
    found = drive(pool, "a b c d", Limits(decoders=1), questions=2)
    assert found == {"a": ["answered"] * 2, "b": ["failed"] * 2, "c": ["answered"] * 2, "d": ["answered"] * 2}


def test_a_clip_that_kills_whoever_decodes_it_is_found_and_costs_one_other_at_most() -> None:
    pool = Script(ahead_kills=["killer"])
    found = drive(pool, "a b killer c d", Limits(decoders=2))
    failed = {name for name, statuses in found.items() if statuses == ["failed"]}
    assert failed == {"a", "killer"}
    assert all(len(statuses) == 1 for statuses in found.values())


def test_a_worker_is_given_as_many_questions_as_are_answered_together() -> None:
    pool, limits = Script(), Limits(decoders=1, together=4)
    drive(pool, "a b c d e", limits, questions=2)
    assert pool.given == [(0, "a b", ["c"]), (0, "c d", ["e"]), (0, "e", [])]
    pool = Script(size=2)
    drive(pool, "a b c d", limits)
    assert pool.given[0][1] == "a b"  # not all four to the first


def test_of_those_in_one_hand_only_the_one_that_kills_is_lost() -> None:
    pool = Script(deaths=["c", "c"])
    found = drive(pool, "a b c d e", Limits(decoders=1, together=3), questions=1)
    assert found == {name: ["failed" if name == "c" else "answered"] for name in "abcde"}
    assert pool.given == [(0, "a b c", ["d"]), (0, "c", []), (0, "d", []), (0, "e", [])]  # one by one from then on


@given(
    st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=4),
    st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=2),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(1, 8),
)
def test_whoever_dies_every_item_is_recorded_once(
    deaths: list[str], kills: list[str], size: int, ahead: int, together: int
) -> None:
    limits = Limits(decoders=ahead, together=together)
    found = drive(Script(size, deaths, kills), "a b c d e f g h", limits, questions=2)
    assert set(found) == set("abcdefgh")
    assert all(len(statuses) == 2 for statuses in found.values())
    assert all(found[name] == ["failed"] * 2 for name in kills)


def test_the_first_failure_is_enough_when_asked() -> None:
    assert drive(Script(), "a bad b", Limits(fail_fast=True)) == {"a": ["answered"], "bad": ["failed"]}


def test_a_model_that_is_refused_ends_the_batch() -> None:
    pool = Script()
    pool.said = [(0, Refused(4, "no such model", "Fetch it."))]
    with pytest.raises(ModelUnavailable, match="no such model"):
        drive(pool, "a b")


def test_workers_that_die_while_loading_end_the_batch() -> None:
    pool = Script()
    pool.said = [(0, Died("SIGKILL"))] * 3
    with pytest.raises(OutOfResources, match="loaded"):
        drive(pool, "a b")


@pytest.mark.parametrize("presses", [1, 2])
def test_stopping(presses: int) -> None:
    pool, records = Script(), []
    jobs = [Job((Item(name, "why?"),)) for name in "abc"]

    def press(message: Message) -> None:
        if isinstance(message, Ready):
            driver._deal()
            driver.stopping = presses

    driver = Driver(jobs, pool, Limits(), records.append, press)  # type: ignore[arg-type]
    if presses == 2:
        with pytest.raises(KeyboardInterrupt):
            driver.run()
    else:
        driver.run()
    assert [record["video"] for record in records] == ["a"] * (presses == 1)  # type: ignore[index]
