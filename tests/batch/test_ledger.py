"""The ledger: what a kill, a full disk or a second run can do to it, and what it says then."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.batch.ledger import Ledger, key_of, records
from purekv_cli.errors import OutOfResources, UsageError
from purekv_cli.ledger import encoded

SETTINGS = {"method": {"budget": "0.2"}}


def record(video: str, status: str = "answered", question: str = "why?", **more: Any) -> dict[str, Any]:
    return {"video": video, "question": question, "status": status, **more}


def written(path: Path, *found: dict[str, Any]) -> Path:
    ledger = Ledger(path)
    ledger.begin(SETTINGS)
    for one in found:
        ledger.append(one)
    ledger.close()
    return path


def reopened(path: Path) -> Ledger:
    ledger = Ledger(path)
    ledger.close()
    return ledger


def test_a_ledger_comes_back_as_it_was_written(tmp_path: Path) -> None:
    first, second = record("a.mp4"), record("b.mp4", "failed", id=3, start=1.5)
    ledger = reopened(written(tmp_path / "out.jsonl", first, second))
    assert ledger.settings == SETTINGS
    assert ledger.status == {key_of(first): "answered", key_of(second): "failed"}


def test_the_latest_record_of_an_item_counts(tmp_path: Path) -> None:
    path = written(tmp_path / "out.jsonl", record("a", "failed"), record("b"), record("a", answer="yes"))
    assert set(reopened(path).status.values()) == {"answered"}
    assert [(r["video"], r.get("answer")) for r in records(path)] == [("a", "yes"), ("b", None)]


def test_a_kill_at_any_byte_loses_at_most_the_last_record(tmp_path: Path) -> None:
    path = written(tmp_path / "out.jsonl", record("a.mp4", answer="é"), record("b.mp4"))
    data = path.read_bytes()
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        complete = [line for line in data.splitlines() if data.index(line) + len(line) <= cut]
        ledger = Ledger(path)
        assert (ledger.settings is not None) == bool(complete)
        assert len(ledger.status) == max(len(complete) - 1, 0)
        ledger.close()
        assert path.read_bytes() == b"".join(line + b"\n" for line in complete)


def test_two_runs_on_one_file_are_refused_until_the_first_dies(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    code = (
        "import sys, time; from pathlib import Path; from purekv_cli.batch.ledger import Ledger\n"
        f"ledger = Ledger(Path({str(path)!r})); print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UsageError, match="another run"):
            Ledger(path)
        other.kill()
        other.wait()
    reopened(path)


@pytest.mark.parametrize("content", [b"important notes\n", b'{"video": "a"}\n', b"\x00\x01", b"[1]\n"])
def test_a_file_that_is_no_ledger_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not the output of a batch"):
        Ledger(path)
    assert path.read_bytes() == content


def test_a_line_that_rotted_is_passed_over(tmp_path: Path) -> None:
    path = written(tmp_path / "out.jsonl", record("a"))
    with path.open("ab") as file:
        file.write(b"\x00\x00\x00\n" + encoded(record("b")))
    ledger = reopened(path)
    assert ledger.unreadable == 1
    assert len(ledger.status) == 2


def test_ledgers_of_shards_can_be_joined(tmp_path: Path) -> None:
    one, two = written(tmp_path / "1.jsonl", record("a")), written(tmp_path / "2.jsonl", record("b"))
    joined = tmp_path / "all.jsonl"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    assert len(reopened(joined).status) == 2
    joined.write_bytes(one.read_bytes() + encoded({"purekv_batch": 1, "settings": {"method": {"budget": "0.5"}}}))
    with pytest.raises(UsageError, match="different settings"):
        Ledger(joined)


@pytest.mark.parametrize("name", [".", "missing/out.jsonl"])
def test_where_nothing_can_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot write"):
        Ledger(tmp_path / name)


def test_a_disk_that_fills_up_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    ledger = Ledger(path)
    ledger.begin(SETTINGS)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ledger.append(record("a"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, before[1]))
    try:
        with pytest.raises(OutOfResources, match="cannot write"):
            ledger.append(record("b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    ledger.append(record("c"))
    ledger.close()
    assert [r["video"] for r in records(path)] == ["a", "c"]


@given(st.text(st.characters(exclude_categories=())), st.text())
def test_every_file_name_and_answer_comes_back(video: str, answer: str) -> None:
    line = encoded(record(video, answer=answer))
    assert line.count(b"\n") == 1
    assert json.loads(line) == record(video, answer=answer)
