"""Every way a batch can end, on the real command with a stub for a model: the code, no traceback, the ledger whole."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.batch.conftest import Stubs

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts `purekv batch ... -q why?` in a process group of its own."""

    def run(*arguments: object, seconds: float = 0.3, file_size: int | None = None) -> "subprocess.Popen[str]":
        limit = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_size,) * 2)) if file_size else None
        return subprocess.Popen(
            [sys.executable, "-m", "tests.batch.stub", "batch", *map(str, arguments), "-q", "why?", "-m", "demo"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "STUB_SECONDS": str(seconds), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            preexec_fn=limit,
        )

    return run


def statuses(ledger: Path) -> list[str]:
    """Of the records; the file must hold whole lines of JSON only."""
    assert ledger.read_bytes().endswith(b"\n")
    return [r["status"] for line in ledger.read_text().splitlines() if "status" in (r := json.loads(line))]


def wait_for(ledger: Path, records: int) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if ledger.exists() and ledger.read_bytes().count(b"\n") > records:
            return
        time.sleep(0.01)
    raise AssertionError("nothing was written")


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    assert "Traceback" not in err
    return process.returncode, out, err


def test_all_answered_is_0_and_stdout_is_clean(start: Start, stubs: Stubs, tmp_path: Path) -> None:
    code, out, err = ended(start(stubs(a="ok", b="ok"), "-o", tmp_path / "out.jsonl", "--format", "csv"))
    assert (code, out) == (0, "")
    assert "2 answered, 0 failed" in err
    assert "videos/h" in err
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3


def test_failures_are_6_and_asked_again_only_on_request(start: Start, stubs: Stubs, tmp_path: Path) -> None:
    folder, ledger = stubs(a="ok", b="bad"), tmp_path / "out.jsonl"
    assert ended(start(folder, "-o", ledger, seconds=0))[0] == 6
    code, _, err = ended(start(folder, "-o", ledger, seconds=0))
    assert code == 6
    assert "2 of 2 questions are done already" in err
    assert "1 of 2 questions failed: b.mp4" in err
    stubs(b="ok", c="ok")
    assert ended(start(folder, "-o", ledger, "--retry-failed", seconds=0))[0] == 0
    assert statuses(ledger) == ["answered", "failed", "answered", "answered"]


def test_the_first_failure_ends_it_when_asked(start: Start, stubs: Stubs, tmp_path: Path) -> None:
    ledger = tmp_path / "out.jsonl"
    code, _, err = ended(start(stubs(a="bad", b="ok", c="ok"), "-o", ledger, "--fail-fast"))
    assert code == 6
    assert statuses(ledger) == ["failed"]
    assert "2 were not asked any more" in err


def test_other_settings_are_refused_by_name(start: Start, stubs: Stubs, tmp_path: Path) -> None:
    folder, ledger = stubs(a="ok"), tmp_path / "out.jsonl"
    ended(start(folder, "-o", ledger, seconds=0))
    before = ledger.read_bytes()
    code, _, err = ended(start(folder, "-o", ledger, "--budget", "0.3", "--end", "9"))
    assert code == 2
    assert "budget was 0.2 and is now 0.3; end was not set and is now 9.0" in err
    assert ledger.read_bytes() == before


def test_a_second_run_on_the_same_file_is_refused(start: Start, stubs: Stubs, tmp_path: Path) -> None:
    folder, ledger = stubs(a="ok", b="ok", c="ok"), tmp_path / "out.jsonl"
    first = start(folder, "-o", ledger, seconds=1)
    wait_for(ledger, 0)
    code, _, err = ended(start(folder, "-o", ledger))
    assert code == 2
    assert "another run" in err
    assert ended(first)[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_once_finishes_what_is_in_hand(start: Start, stubs: Stubs, tmp_path: Path, number: int) -> None:
    folder, ledger = stubs(**{f"clip{i}": "ok" for i in range(9)}), tmp_path / "out.jsonl"
    process = start(folder, "-o", ledger, seconds=0.5)
    wait_for(ledger, 1)
    time.sleep(0.2)  # now the second clip is in hand
    os.killpg(process.pid, number)  # as a terminal does: the whole group hears it
    code, _, err = ended(process)
    assert code == 130
    assert "stopping after what is in hand" in err
    assert err.splitlines()[-2] == "purekv: stopped after what was in hand"
    assert statuses(ledger) == ["answered"] * 2


def test_twice_stops_at_once(start: Start, stubs: Stubs, tmp_path: Path) -> None:
    folder, ledger = stubs(a="ok", b="slow", c="ok"), tmp_path / "out.jsonl"
    process = start(folder, "-o", ledger)
    wait_for(ledger, 1)
    time.sleep(0.3)  # now the slow one is in hand
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = ended(process)
    assert code == 130
    assert err.splitlines()[-2] == "purekv: stopped at once"
    assert statuses(ledger) == ["answered"]


def test_a_full_disk_keeps_what_was_written(start: Start, stubs: Stubs, tmp_path: Path) -> None:
    folder, ledger = stubs(**{f"clip{i}": "ok" for i in range(9)}), tmp_path / "out.jsonl"
    code, _, err = ended(start(folder, "-o", ledger, seconds=0, file_size=1500))
    assert code == 5
    assert "cannot write" in err.splitlines()[-2]
    assert 0 < len(statuses(ledger)) < 9
    assert ended(start(folder, "-o", ledger, seconds=0))[0] == 0
    assert len(statuses(ledger)) == 9


def test_a_folder_that_cannot_be_written(start: Start, stubs: Stubs) -> None:
    code, _, err = ended(start(stubs(a="ok"), "-o", "/proc/out.jsonl"))
    assert code == 2
    assert "cannot write" in err


def test_a_list_on_stdin(start: Start, stubs: Stubs, tmp_path: Path) -> None:
    folder, ledger = stubs(a="ok", b="ok"), tmp_path / "out.jsonl"
    process = start("-", "-o", ledger, seconds=0)
    out, _ = process.communicate(f"{folder}/a.mp4\n{folder}/gone.mp4\n", timeout=30)
    assert (process.returncode, out) == (6, "")
    assert statuses(ledger) == ["answered", "failed"]


def test_json_lines_on_stdout(start: Start, stubs: Stubs) -> None:
    code, out, _ = ended(start(stubs(a="ok", b="bad"), "-o", "-", seconds=0))
    assert code == 6
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["answered", "failed"]


def test_a_reader_that_leaves(start: Start, stubs: Stubs) -> None:
    process = start(stubs(**{f"clip{i}": "ok" for i in range(9)}), "-o", "-", "--quiet", seconds=0.05)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(30) == 141
