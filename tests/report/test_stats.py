"""The table of what answers cost, on a narrow terminal."""

import io
from dataclasses import replace

from rich.console import Console

from purekv_cli.report.stats import rows, stats_table
from purekv_cli.runtime.events import Answer, RunStats


def answer(question: str) -> Answer:
    stats = RunStats(
        prompt_tokens=1048,
        video_tokens=1024,
        kept_tokens=209.0,
        kv_bytes_full=2_150_000,
        kv_bytes_kept=428_000,
        kv_bytes_peak=700_000,
        decode_seconds=0.1,
        vision_seconds=0.2,
        prefill_seconds=0.3,
        scoring_seconds=0.01,
        first_token_seconds=0.5,
        tokens_per_second=30.0,
        new_tokens=8,
        sparse=True,
    )
    return Answer(question, "text", "stop", stats)


def test_a_question_is_wrapped_or_cut_but_no_number_is() -> None:
    answers = [answer("why?"), answer("is there a purple ring, and " + "where, and " * 20 + "when?"), answer("what?")]
    stream = io.StringIO()
    Console(file=stream, width=72).print(stats_table(answers))
    found = rows(answers)
    lines = stream.getvalue().splitlines()
    head, body = lines[: -len(found)], lines[-len(found) :]
    assert 1 < len(head) < 6
    assert "…" in "".join(head)
    assert [line.split() for line in body] == [" ".join(row).split() for row in found]


def test_a_cache_from_disk_is_a_row_only_where_there_was_one() -> None:
    fresh, again = answer("why?"), answer("and then?")
    assert "cache from disk" not in dict(row[:2] for row in rows([fresh]))
    again = replace(again, stats=replace(again.stats, recall_seconds=0.02))
    assert {row[0]: row[1:] for row in rows([fresh, again])}["cache from disk"] == ("0 ms", "20 ms")
