"""The price of the first call: two answers in a process, caches of its own, and the table."""

import json
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from purekv_cli.bench import first_call
from purekv_cli.bench.clip import write
from purekv_cli.bench.first_call import CACHES, Spent, answer_twice, in_a_process, table

COLD = Spent(imports=5.0, model=2.0, first_token=14.0, first_answer=15.5, second_answer=0.5, captures=(1, 1))
WARM = replace(COLD, first_token=1.0, first_answer=2.5)


def test_a_process_answers_twice_from_the_file_on(tmp_path: Path) -> None:
    write(tmp_path / "clip.mp4", 2, (192, 256))
    began = time.time() - 3
    spent = answer_twice(tmp_path / "clip.mp4", "tiny", "cpu", 8, began)
    assert spent.imports >= 3
    assert 0 < spent.first_token <= spent.first_answer
    assert spent.second_answer > 0
    assert spent.whole <= time.time() - began
    assert spent.captures == (0, 0)  # graphs need a GPU


def test_both_processes_compile_into_the_same_caches_and_no_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[dict[str, str]] = []

    def run(command: list[str], env: dict[str, str], **_: Any) -> SimpleNamespace:
        assert command[1:3] == ["-m", first_call.__name__]
        seen.append({name: env[name] for name in CACHES})
        kernel = Path(env["TRITON_CACHE_DIR"], "a", "kernel.cubin")  # compiled by the first
        kernel.parent.mkdir(parents=True, exist_ok=True)
        kernel.touch()
        return SimpleNamespace(stdout=f"something else\n{json.dumps(asdict(COLD))}\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert [in_a_process([], tmp_path) for _ in range(2)] == [replace(COLD, compiled=1), COLD]
    assert seen[0] == seen[1]
    assert {Path(place).parent for place in seen[0].values()} == {tmp_path}


def test_the_table_says_what_is_paid_once() -> None:
    rows = {cells[1].strip(): cells[2:4] for cells in (line.split("|") for line in table(COLD, WARM)[2:])}
    assert [float(cell) for cell in rows["once only: first less second"]] == [15.0, 2.0]
    assert [float(cell) for cell in rows["process start to first answer"]] == [22.5, 9.5]
    assert rows["graphs captured by the end of either answer"] == [" 1, 1 ", " 1, 1 "]
