"""The page: what it says of a bench, and what it leaves out where the gate is red."""

import re

import pytest
from markupsafe import escape

from purekv_cli.bench.page import render
from purekv_cli.bench.table import notes, tables
from tests.bench.found import result, row
from tests.bench.test_plot_stages import walked


def bars(page: str, title: str) -> list[tuple[str, ...]]:
    """(label, text) under a heading."""
    group = page.split(f"<h2>{title}", 1)[1].split("<h2>", 1)[0]
    return re.findall(r"<span class=\"soft\">(.*?)</span>.*?<span>(.*?)</span>", group)


def test_time_and_memory_are_bars_with_their_ratios() -> None:
    page = render(result())
    assert "The gate is green: every comparison (1) agrees." in page
    assert bars(page, "Prefill of 8,000 tokens") == [
        ("dense, transformers", "200 ms"),
        ("dense, purekv engine", "160 ms, 1.19x"),
        ("purekv 0.2", "100 ms, 1.90x"),
        ("purekv 0.2, 0.2 from layer 4", "50.0 ms, 3.80x"),
    ]
    assert bars(page, "Every further token")[2] == ("purekv 0.2", "8.00 ms, 5.00x")
    assert bars(page, "Most KV bytes")[2] == ("purekv 0.2", "25 MiB")


def test_the_bars_are_those_of_the_longest_prompt_and_a_drawing_has_them_all() -> None:
    found = result()
    assert "<svg" not in render(found)
    found.rows.append(row("stock", [(1.2, 1.3, 0.04)], 400, 400, "32k"))
    page = render(found)
    assert bars(page, "Prefill of 32,000 tokens") == [("dense, transformers", "1200 ms")]
    assert page.count("<svg") == 1


def test_a_red_gate_is_said_and_what_it_covers_is_in_no_bar_and_no_drawing() -> None:
    page = render(result(broken="whole"))
    assert "The gate is red" in page
    assert "pruned = masked (differs by 0.3)" in page
    assert [label for label, _ in bars(page, "Prefill of")] == [
        "dense, transformers",
        "dense, purekv engine",
        "purekv 0.2, 0.2 from layer 4",
    ]


def test_every_cell_note_and_fact_of_the_other_forms_is_there() -> None:
    found = walked()
    found.rows[2].failure = "out of <memory>"
    page = render(found)
    for table in tables(found):
        assert all(cell in page for line in table.rows for cell in line)
    assert all(escape(note) in page for note in notes(found))
    assert all(str(value) in page for value in found.facts.values())
    assert "<memory>" not in page


@pytest.mark.parametrize("interrupted", [False, True])
def test_nothing_measured_is_a_page_too(interrupted: bool) -> None:
    found = result()
    found.rows.clear()
    found.interrupted = interrupted
    page = render(found)
    assert 'class="bars' not in page
    assert ("Interrupted" in page) == interrupted
