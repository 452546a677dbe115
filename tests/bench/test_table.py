"""Tables from given raw times: every ratio by hand, and none where the gate is red."""

import json

import pytest

from purekv_cli.bench.export import to_json
from purekv_cli.bench.measure import Spread
from purekv_cli.bench.result import Result
from purekv_cli.bench.table import Table, markdown, notes, tables
from tests.bench.found import result


def cells(found: Result, title: str, column: str) -> list[str]:
    table: Table = next(table for table in tables(found) if table.title.startswith(title))
    return [row[table.columns.index(column)] for row in table.rows]


def test_spread() -> None:
    spread = Spread.of([1.0, 2.0, 6.0])
    assert (spread.mean, spread.least) == (3.0, 1.0)
    assert spread.deviation == pytest.approx(7**0.5)
    assert Spread.of([2.0]).deviation is None


def test_prefill_is_held_against_the_stock_row_of_its_length() -> None:
    found = result()
    assert cells(found, "Prefill", "prefill ms") == ["200 ± 14.1", "160", "100", "50.0"]
    assert cells(found, "Prefill", "speed-up") == ["1", "1.19x", "1.90x", "3.80x"]
    assert cells(found, "Prefill", "of dense") == ["", "1.000", "0.250", "0.240"]
    assert cells(found, "Prefill", "TFLOP/s") == ["20", "25", "40", "80"]
    assert cells(found, "Prefill", "of limit") == ["20%", "25%", "40%", "80%"]


def test_decoding_is_held_against_the_floor_and_the_stock_row() -> None:
    found = result()
    assert cells(found, "First token", "x floor") == ["8.00", "2.00", "1.60", "1.60"]
    assert cells(found, "First token", "KV kept") == ["100 MiB", "100 MiB", "20 MiB", "20 MiB"]
    assert cells(found, "First token", "memory") == ["3 GiB"] * 4
    first, later = (i for i, name in enumerate(tables(found)[2].columns) if name == "speed-up")
    assert [row[first] for row in tables(found)[2].rows] == ["1", "1.19x", "1.90x", "3.81x"]
    assert [row[later] for row in tables(found)[2].rows] == ["1", "4.00x", "5.00x", "5.00x"]


def test_a_red_gate_prints_the_failure_where_the_ratio_would_be() -> None:
    found = result(broken="whole")
    assert cells(found, "Prefill", "speed-up") == ["1", "1.19x", "gate: pruned = masked", "3.80x"]
    assert cells(found, "Prefill", "of dense") == ["", "1.000", "", "0.240"]
    assert "RED" in cells(found, "Gate", "")
    exported = {row["kind"]: row for row in json.loads(to_json(found))["rows"]}
    assert exported["whole"]["speed_ups"] is None
    assert exported["propagated"]["speed_ups"]["prefill"] == pytest.approx(3.8)
    assert any("red" in note for note in notes(found))


def test_without_a_baseline_there_is_no_ratio() -> None:
    found = result()
    found.rows[0].runs.clear()
    found.rows[0].failure = "out of memory"
    assert cells(found, "Prefill", "prefill ms")[0] == "failed, see below"
    assert cells(found, "Prefill", "speed-up")[1:] == ["no baseline"] * 3
    assert "8k, dense, transformers: out of memory" in notes(found)


def test_an_interrupted_bench_says_so_and_keeps_what_it_has() -> None:
    found = result()
    found.rows[3].runs.clear()
    found.interrupted = True
    assert cells(found, "Prefill", "prefill ms")[3] == "not measured"
    assert any("interrupted" in note for note in notes(found))


def test_markdown_holds_the_same_cells_and_the_facts() -> None:
    text = markdown(result())
    assert "- device: a GPU" in text
    assert "| 8k | purekv 0.2 | 100 | 100 | 1.90x |" in text
    for line in (line for line in text.splitlines() if line.startswith("|")):
        assert line.endswith("|")


def test_the_export_holds_raw_times_and_a_schema_version() -> None:
    record = json.loads(to_json(result()))
    assert record["schema_version"] == 1
    assert record["rows"][0]["runs"][1] == {"prefill": 0.21, "first_token": 0.22, "token": 0.04}
    assert record["rows"][2]["config"]["budget"] == {"kind": "fraction", "value": 0.2}
    assert record["limits"] == {"flops": 1e14, "bandwidth": 2e12}
