"""The result as one HTML file in the look of every report: the gate, time and memory as bars, drawings, all tables."""

from collections.abc import Callable

from markupsafe import Markup

from purekv_cli.bench import plot, plot_stages, table
from purekv_cli.bench.result import Result, Row
from purekv_cli.report import page
from purekv_cli.report.svg import SvgPen
from purekv_cli.report.units import size


def render(result: Result) -> str:
    """The page, whole: it needs no other file and no network."""
    facts = result.facts
    return page.render(
        "bench/bench.html.j2",
        title=f"purekv bench: {facts.get('model', '')}",
        under=f"{facts.get('device', '')} · {facts.get('dtype', '')}",
        broad=True,
        result=result,
        red=[f"{check.name} ({check.detail})" for check in result.checks if not check.ok],
        groups=_groups(result),
        drawings=_drawings(result),
        tables=sorted(table.tables(result), key=lambda table: table.title == "Gate"),  # the numbers first
        notes=table.notes(result),
    )


def _groups(result: Result) -> list[tuple[str, list[page.Bar]]]:
    """Of the longest prompt that was measured, without the rows that a red gate covers: (title, bars)."""
    rows = [row for row in result.rows if row.measured and not result.red(row.arm.kind)]
    if not rows:
        return []
    most = max(row.tokens for row in rows)
    rows = [row for row in rows if row.tokens == most]
    stock = result.stock(rows[0].label)

    def times(value: Callable[[Row], float], least: Callable[[Row], float]) -> list[page.Bar]:
        def text(row: Row) -> str:
            taken = f"{table.milliseconds(value(row))} ms"
            if row.arm.is_stock or stock is None:
                return taken
            return f"{taken}, {table.speed_up(result, row, least(stock), least(row))}"

        return page.to_scale(((row.arm.name, text(row), value(row)) for row in rows), ours)

    held = [(row.arm.name, size(row.costs.kv_peak), row.costs.kv_peak) for row in rows if row.costs]
    ours = [row.arm.name for row in rows if row.arm.kind in ("whole", "propagated")]
    return [
        (f"Prefill of {most:,} tokens", times(lambda row: row.prefill.mean, lambda row: row.prefill.least)),
        ("Every further token", times(lambda row: row.token.mean, lambda row: row.token.least)),
        ("Most KV bytes alive in prefill", page.to_scale(held, ours)),
    ]


def _drawings(result: Result) -> list[tuple[str, Markup]]:
    """(title, drawing); that of one length would say what the bars say."""
    found = []
    if len({row.tokens for row in result.rows if row.measured}) > 1 and (pen := plot.drawn(result, SvgPen)):
        found.append(("Over length", pen.markup("prefill time and KV bytes over prompt length", plot.HEADER)))
    if pen := plot_stages.drawn(result, SvgPen):
        found.append(("From a file to the first token", pen.markup("the wait, by stage", plot_stages.HEADER)))
    return found
