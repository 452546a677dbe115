"""Answers together: what a row counts, and a run of the whole command."""

import subprocess
import sys
from dataclasses import replace

import pytest

from purekv_cli.bench.together import Row, table

ONE = Row(answer=100, together=1, prefill=0.2, seconds=0.4, same=True)


def test_a_row_counts_a_prefill_a_prompt_and_a_step_for_all() -> None:
    four = replace(ONE, together=4, seconds=0.8)
    assert four.step == pytest.approx(0.008)
    assert four.tokens_a_second == pytest.approx(500)
    assert four.an_hour == pytest.approx(3600 / (0.2 + 0.8 / 4))


def test_gains_are_those_over_one_answer_of_the_same_length() -> None:
    rows = [ONE, replace(ONE, together=4, seconds=0.8), replace(ONE, answer=10), replace(ONE, answer=10, together=2)]
    cells = [line.split(" | ") for line in table(rows)[2:]]
    assert [row[5] for row in cells] == ["1.00x", "2.00x", "1.00x", "2.00x"]
    assert [row[7] for row in cells] == ["1.00x", "1.50x", "1.00x", "1.50x"]


def test_an_answer_that_company_changed_is_not_passed_over() -> None:
    assert table([replace(ONE, same=False)])[-1].endswith("| NO |")


def test_the_command_says_what_it_measured_on_a_cpu() -> None:
    flags = ["--shape", "tiny", "--device", "cpu", "--dtype", "float32", "--tokens", "600", "--grid", "4x6"]
    flags += ["--answers", "3", "--rows", "1,3", "--runs", "1"]
    command = [sys.executable, "-m", "purekv_cli.bench.together", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    head, *_, one, three = done.stdout.splitlines()
    assert head.startswith("shape tiny, float32 on cpu")
    assert one.startswith("| 3 | 1 |")
    assert three.startswith("| 3 | 3 |")
    assert three.endswith("| yes |")
