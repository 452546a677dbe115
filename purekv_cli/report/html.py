"""The report as one HTML file that needs nothing else: a strip of the frames that were read, the answers, bars.

Bars are drawn to scale within their group (bytes, seconds): people compare lengths before they read numbers.
"""

import base64
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment

from purekv_cli import __version__
from purekv_cli.report.record import Record
from purekv_cli.report.stats import rows
from purekv_cli.report.units import size, span, times
from purekv_cli.runtime.events import RunStats


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    text: str
    percent: float  # of the longest bar in its group
    strong: bool = False


def render(record: Record) -> str:
    template = files("purekv_cli.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    stats = record.stats
    return (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(
            record=record,
            version=__version__,
            strip=[(time, base64.b64encode(jpeg).decode()) for time, jpeg in record.strip],
            memory=_memory(stats),
            ratio=times(stats.kv_bytes_full, stats.kv_bytes_kept),
            seconds=_seconds(stats),
            rows=rows(record.answers),
        )
    )


def _memory(stats: RunStats) -> list[Bar]:
    values = [("full", stats.kv_bytes_full), ("peak", stats.kv_bytes_peak), ("kept", stats.kv_bytes_kept)]
    most = max(value for _, value in values) or 1
    return [Bar(label, size(value), 100 * value / most, label == "kept") for label, value in values]


def _seconds(stats: RunStats) -> list[Bar]:
    answering = (stats.new_tokens - 1) / stats.tokens_per_second if stats.tokens_per_second else 0.0
    values = [
        ("video decoding", stats.decode_seconds),
        ("vision", stats.vision_seconds),
        ("prefill", stats.prefill_seconds),
        ("of it scoring", stats.scoring_seconds),
        ("answering", answering),
    ]
    most = max(value for _, value in values) or 1
    return [Bar(label, span(value), 100 * value / most, label == "prefill") for label, value in values]
