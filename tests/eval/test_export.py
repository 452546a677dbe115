"""What is written: JSON that holds every count, Markdown that says how it was made."""

import json
from dataclasses import replace

from purekv_cli.eval.arms import Arm
from purekv_cli.eval.export import FORMATS, to_json, to_markdown
from purekv_cli.eval.summary import summarise
from purekv_cli.eval.table import sections
from tests.eval.graded import FULL, answers, items

FACTS = {"command": "purekv eval clipworld", "model": "demo", "way": "replay"}


def test_json_has_the_counts_that_the_tables_are_made_of() -> None:
    asked = items(10, 4)
    rows = [*answers(asked, Arm("dense", "1", "unknown")), *answers(asked, Arm("random", "0.1", "known"), 4)]
    record = json.loads(to_json(FACTS, summarise(rows)))
    assert record["schema_version"] == 1
    assert record["model"] == "demo"
    dense, random = record["arms"]
    assert (dense["policy"], dense["against_dense"]) == ("dense", None)
    assert (random["suite"], random["policy"], random["budget"], random["when"]) == ("medium", "random", "0.1", "known")
    assert (random["videos"], random["asked"], random["right"], random["failed"]) == (10, 40, 30, 0)
    assert random["types"]["narration"] == {"right": 0, "asked": 10}
    assert random["against_dense"]["only_b"] == 10
    assert random["narration"]["ratio"] == 0
    assert random["kv_bytes_kept"] == 40 * FULL // 10


def test_markdown_says_how_it_was_made() -> None:
    text = to_markdown(FACTS, summarise(answers(items(2, 2), Arm("dense", "1", "unknown"))))
    assert "- command: purekv eval clipworld" in text
    assert "## medium" in text


def test_the_page_holds_every_cell_and_failure() -> None:
    asked = items(6, 4)
    rows = [*answers(asked, Arm("dense", "1", "unknown")), *answers(asked, Arm("random", "0.1", "known"), 4)]
    rows.append(replace(rows[-1], id="broken", error="<odd> thing"))
    lines = summarise(rows)
    page = FORMATS[".html"](FACTS, lines)
    for section in sections(lines):
        assert f"<h{section.level}>{section.title}</h{section.level}>" in page
        assert all(cell in page for table in section.tables for row in table for cell in row)
    assert "1 not answered: &lt;odd&gt; thing" in page
    assert "purekv eval clipworld" in page
    assert page.count("<svg") == 1


def test_a_page_of_dense_alone_has_no_picture() -> None:
    page = FORMATS[".html"](FACTS, summarise(answers(items(2, 2), Arm("dense", "1", "unknown"))))
    assert "<svg" not in page
    assert "2 videos, 4 questions" in page
