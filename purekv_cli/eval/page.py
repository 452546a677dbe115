"""An eval as one HTML file in the look of every report: the picture, then every table and how it was made."""

from collections.abc import Mapping, Sequence
from typing import Any

from purekv_cli.eval import plot, table
from purekv_cli.eval.summary import Line
from purekv_cli.report import page
from purekv_cli.report.svg import SvgPen


def render(facts: Mapping[str, Any], lines: Sequence[Line]) -> str:
    """The page, whole: it needs no other file and no network."""
    pen = plot.drawn("", lines, SvgPen)
    return page.render(
        "eval/eval.html.j2",
        title="purekv eval",
        under=f"{facts.get('model', '')} · {facts.get('device', '')} · {facts.get('dtype', '')}",
        broad=True,
        facts=facts,
        drawing=pen.markup("right answers over KV bytes kept", plot.HEADER) if pen else "",
        sections=table.sections(lines),
        failures=table.failures(lines),
    )
