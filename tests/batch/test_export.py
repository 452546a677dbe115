"""The ledger as a table."""

import csv
from pathlib import Path

from purekv_cli.batch.export import COLUMNS, export
from tests.batch.test_ledger import record, written

ANSWER = record("/v/a|b.mp4", question="who,\nwhy?", answer='a "man"', id="x", stats={"new_tokens": 3})
FAILURE = record("/v/c.mp4", "failed", error={"type": "UnreadableInput", "message": "gone", "hint": "look"})


def test_csv_holds_the_latest_record_of_every_item(tmp_path: Path) -> None:
    ledger = written(tmp_path / "out.jsonl", record("/v/c.mp4", "answered", answer="old"), ANSWER, FAILURE)
    with export(ledger, "csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["video"] for row in rows] == ["/v/c.mp4", "/v/a|b.mp4"]
    assert (rows[0]["status"], rows[0]["error"], rows[0]["hint"], rows[0]["answer"]) == ("failed", "gone", "look", "")
    assert (rows[1]["question"], rows[1]["answer"], rows[1]["id"]) == ("who,\nwhy?", 'a "man"', "x")
    assert rows[1]["new_tokens"] == "3"
    assert set(COLUMNS) <= set(rows[0])


def test_markdown_is_one_line_a_record(tmp_path: Path) -> None:
    lines = export(written(tmp_path / "out.jsonl", ANSWER, FAILURE), "md").read_text().splitlines()
    assert lines[2:] == ['| a\\|b.mp4 | who, why? | a "man" |', "| c.mp4 | why? | failed: gone |"]


def test_nothing_but_the_table_is_left(tmp_path: Path) -> None:
    export(written(tmp_path / "out.jsonl", ANSWER), "csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.jsonl"]
