"""The result as tables of text: the same cells on the terminal and in Markdown.

A ratio stands only where the gate is green for that kind of row and the baseline was measured in the same run;
otherwise its cell says what is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from purekv_cli.bench.measure import Spread
from purekv_cli.bench.result import Result, Row, Walk
from purekv_cli.report.units import size

PREFILL = ("tokens", "row", "prefill ms", "min", "speed-up", "scoring ms", "TFLOP/s", "of limit", "KV peak", "of dense")
DECODE = (
    "tokens",
    "row",
    "first token ms",
    "speed-up",
    "ms/token",
    "floor",
    "x floor",
    "speed-up",
    "KV kept",
    "memory",
)

WALK = ("tokens", "row", "decode ms", "prepare ms", "vision ms", "prefill ms", "first token ms", "speed-up")


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def is_text(self, column: int) -> bool:
        """Whether a column holds words, which begin at the left."""
        return column < 2 or self.title == "Gate"


def tables(result: Result) -> list[Table]:
    """Gate, prefill, decode."""
    gate = tuple((check.name, "green" if check.ok else "RED", check.detail) for check in result.checks)
    found = [Table("Gate", ("check", "", "finding"), gate)]
    found.append(Table("Prefill of the language model", PREFILL, tuple(_prefill(result, r) for r in result.rows)))
    found.append(Table("First token and decoding", DECODE, tuple(_decode(result, r) for r in result.rows)))
    found.append(Table("From the file to the first token", WALK, tuple(_walk(result, w) for w in result.walks)))
    return [table for table in found if table.rows]


def notes(result: Result) -> list[str]:
    """What the columns mean, and what went wrong."""
    limits = result.limits
    lines = [
        f"baseline: {result.facts.get('baseline')}; engine: {result.facts.get('engine')}",
        f"limits here: matrix product {limits.flops / 1e12:.4g} TFLOP/s, copy {limits.bandwidth / 1e12:.3g} TB/s",
        "speed-up: fastest run against the baseline's fastest run; times are mean ± standard deviation, or one run",
        "TFLOP/s: a dense row counts the dense model's work, a pruned row only the work that it really does",
        "floor: weights and cache of a token read once at the speed of the copy",
    ]
    if result.walks:
        lines.append("on a GPU ours decodes and sees at once: its vision is what is left after the last frame")
    every: list[Row | Walk] = [*result.rows, *result.walks]
    lines += [f"{row.label}, {row.arm.name}: {row.failure}" for row in every if row.failure]
    if not result.green:
        lines.append("the gate is red: rows that it covers show no speed-up")
    if result.interrupted:
        lines.append("interrupted: these are the runs that were finished")
    return lines


def rich(result: Result) -> Group:
    """For a terminal."""
    parts: list[RichTable | Text] = []
    for table in tables(result):
        drawn = RichTable(title=table.title, title_justify="left", box=None, padding=(0, 2, 0, 0))
        for at, column in enumerate(table.columns):
            drawn.add_column(column, justify="left" if table.is_text(at) else "right", overflow="fold")
        for row in table.rows:
            drawn.add_row(*row)
        parts += [drawn, Text("")]
    return Group(*parts, *(Text(line) for line in notes(result)))


def markdown(result: Result) -> str:
    """For a page of docs/benchmarks."""
    lines = ["# purekv bench", ""]
    lines += [f"- {name}: {value}" for name, value in result.facts.items()]
    for table in tables(result):
        lines += ["", f"## {table.title}", "", _line(table.columns), _line(["---"] * len(table.columns))]
        lines += [_line(row) for row in table.rows]
    return "\n".join([*lines, "", *(f"- {line}" for line in notes(result))]) + "\n"


def speed_up(result: Result, row: Row | Walk, baseline: float | None, value: float, *kinds: str) -> str:
    """ "4.70x", or why there is none."""
    if row.arm.is_stock:
        return "1"
    if red := [check for kind in (row.arm.kind, *kinds) for check in result.red(kind)]:
        return f"gate: {red[0].name}"
    return f"{baseline / value:.2f}x" if baseline else "no baseline"


def _prefill(result: Result, row: Row) -> tuple[str, ...]:
    head = (row.label, row.arm.name)
    if row.costs is None or not row.runs:
        return (*head, _absent(row), *[""] * (len(PREFILL) - 3))
    stock, costs, taken = result.stock(row.label), row.costs, row.prefill
    speed = costs.flops / taken.mean
    return (
        *head,
        _spread(taken),
        milliseconds(taken.least),
        speed_up(result, row, stock.prefill.least if stock else None, taken.least),
        milliseconds(costs.scoring) if costs.scoring else "",
        f"{speed / 1e12:.4g}",
        f"{speed / result.limits.flops:.0%}",
        size(costs.kv_peak),
        _share(result, row, stock, costs.kv_peak),
    )


def _decode(result: Result, row: Row) -> tuple[str, ...]:
    head = (row.label, row.arm.name)
    if row.costs is None or not row.runs:
        return (*head, _absent(row), *[""] * (len(DECODE) - 3))
    stock, costs, token = result.stock(row.label), row.costs, row.token
    return (
        *head,
        _spread(row.first_token),
        speed_up(result, row, stock.first_token.least if stock else None, row.first_token.least),
        _spread(token),
        milliseconds(costs.floor),
        f"{token.mean / costs.floor:.2f}",
        speed_up(result, row, stock.token.least if stock else None, token.least),
        size(costs.kv_kept),
        "" if costs.memory_peak is None else size(costs.memory_peak),
    )


def _walk(result: Result, walk: Walk) -> tuple[str, ...]:
    head = (str(walk.tokens or ""), walk.arm.name)
    if not walk.runs:
        return (*head, _absent(walk), *[""] * (len(WALK) - 3))
    stock, whole = result.stock_walk(), walk.stage("first_token")
    baseline = stock.stage("first_token").least if stock else None
    stages = (milliseconds(walk.stage(name).mean) for name in ("decode", "prepare", "vision", "prefill"))
    return (*head, *stages, _spread(whole), speed_up(result, walk, baseline, whole.least, "file"))


def _share(result: Result, row: Row, stock: Row | None, held: int) -> str:
    """Bytes as a share of the baseline's cache."""
    if row.arm.is_stock or stock is None or stock.costs is None or result.red(row.arm.kind):
        return ""
    return f"{held / stock.costs.kv_kept:.3f}"


def _absent(row: Row | Walk) -> str:
    return "failed, see below" if row.failure else "not measured"


def _spread(spread: Spread) -> str:
    return (
        milliseconds(spread.mean)
        if spread.deviation is None
        else f"{milliseconds(spread.mean)} ± {milliseconds(spread.deviation)}"
    )


def milliseconds(seconds: float) -> str:
    """Three digits, without the unit."""
    value = 1000 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
