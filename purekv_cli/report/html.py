"""A record as one HTML file: a strip of the frames that were read, the answers, what they cost, what ran."""

import base64
from typing import Any

from purekv_cli.report import page
from purekv_cli.report.record import Record
from purekv_cli.report.stats import RECALL, rows
from purekv_cli.report.units import size, span, times
from purekv_cli.runtime.events import RunStats


def render(record: Record, template: str = "report/answers.html.j2", **more: Any) -> str:
    """The page; `template` may extend the plain one and asks for `more` then."""
    stats = record.stats
    return page.render(
        template,
        title=record.title,
        under=f"{record.model['name']} · policy {record.method['policy']} · budget {record.method['budget']}",
        record=record,
        strip=[(time, base64.b64encode(jpeg).decode()) for time, jpeg in record.strip],
        memory=_memory(stats),
        ratio=times(stats.kv_bytes_full, stats.kv_bytes_kept),
        seconds=_seconds(stats),
        rows=rows(record.answers),
        **more,
    )


def _memory(stats: RunStats) -> list[page.Bar]:
    values = (("full", stats.kv_bytes_full), ("peak", stats.kv_bytes_peak), ("kept", stats.kv_bytes_kept))
    return page.to_scale(((label, size(value), value) for label, value in values), strong=("kept",))


def _seconds(stats: RunStats) -> list[page.Bar]:
    answering = (stats.new_tokens - 1) / stats.tokens_per_second if stats.tokens_per_second else 0.0
    recalled = ((RECALL, stats.recall_seconds),) if stats.recall_seconds else ()
    values = (
        *recalled,
        ("video decoding", stats.decode_seconds),
        ("vision", stats.vision_seconds),
        ("prefill", stats.prefill_seconds),
        ("of it scoring", stats.scoring_seconds),
        ("answering", answering),
    )
    return page.to_scale(((label, span(value), value) for label, value in values), strong=("prefill",))
