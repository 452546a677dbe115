"""The lines of a summary as Markdown: policies by budgets for every suite and moment of pruning.

    python -m purekv_cli.eval.table results.jsonl more.jsonl     # of all files together

The first table of each holds the share of right answers with its interval. The others say what that is against dense on
the same questions, against our policy, and what the next-token distribution and the bytes say.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from purekv_cli.eval.records import Graded
from purekv_cli.eval.statistics import Difference
from purekv_cli.eval.summary import NARRATION, OURS, Line, summarise
from purekv_cli.report.units import size

MOMENTS = {
    "unknown": "question not known when pruning",
    "known": "question known when pruning, then fed again over what stayed",
    "prompt": "pruned after the whole prompt: the first token comes from the full cache",
}


SAME = 0.005  # a share of answers: losses that are smaller are none

Table = tuple[tuple[str, ...], ...]  # rows of cells; the first row is the head


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it."""

    level: int
    title: str
    text: str
    tables: tuple[Table, ...]


def markdown(lines: Sequence[Line]) -> str:
    """All tables, and what went wrong."""
    parts = []
    for section in sections(lines):
        parts.append(f"{'#' * section.level} {section.title}")
        parts += [section.text] if section.text else []
        parts += [_grid(table) for table in section.tables]
    failed = ["\n".join(f"- {failure}" for failure in failures(lines))]
    return "\n\n".join([*parts, *(text for text in failed if text)]) + "\n"


def sections(lines: Sequence[Line]) -> list[Section]:
    """A suite, then every moment of pruning in it."""
    found = []
    for suite in dict.fromkeys(line.suite for line in lines):
        of_suite = [line for line in lines if line.suite == suite]
        dense = next((line for line in of_suite if line.arm.is_baseline), None)
        found.append(Section(2, suite, _facts(of_suite, dense), ()))
        for when, title in MOMENTS.items():
            here = [line for line in of_suite if line.arm.when == when and line is not dense]
            found += [Section(3, f"{suite}: {title}", "", tuple(_tables(here, dense)))] if here else []
    return found


def _facts(lines: Sequence[Line], dense: Line | None) -> str:
    """How much was asked, what dense makes of it, and how our policy compares."""
    most = max(lines, key=lambda line: line.asked)
    narrations = most.types.get(NARRATION, (0, 0))[1]
    text = f"{_count(most.videos, 'video')}, {_count(most.asked, 'question')} of {_count(len(most.types), 'type')}"
    text += f", {_count(narrations, 'narration')} among them" if narrations else ""
    if dense:
        text += f". Dense, in %: right {_right(dense)}, mean of types {100 * dense.mean_of_types:.1f}"
        text += f", narration {_share(dense, NARRATION)}" if narrations else ""
        text += f"; {size(dense.kv_bytes_full / max(1, dense.asked))} of KV cache a question"
    spreads = [found.interval for line in lines if (found := line.behind_ours) and found.interval]
    if spreads:
        better, worse = sum(low > 0 for low, _ in spreads), sum(high < 0 for _, high in spreads)
        unsure = sum(low < -SAME for low, _ in spreads)
        text += f". {OURS} against others at the same budget and moment, {_count(len(spreads), 'comparison')}: "
        text += f"clearly better in {better}, clearly worse in {worse}; "
        text += f"an interval begins under -{100 * SAME:g} points in {unsure}"
    return text + "."


def _count(number: int, of: str) -> str:
    return f"{number} {of}{'' if number == 1 else 's'}"


def _tables(lines: Sequence[Line], dense: Line | None) -> list[Table]:
    """Of one suite and moment."""
    tables = [_matrix("right, % (95 % interval)", lines, _right)]
    if dense:
        narrated = any(line.narration for line in lines)
        title = "share of dense: all / narration" if narrated else "share of dense (95 % interval)"
        tables.append(_matrix(title, lines, _of_dense if narrated else _of_dense_alone))
        tables.append(_matrix("minus dense, points (95 % interval; McNemar p)", lines, lambda x: _gap(x.against_dense)))
    if any(line.behind_ours for line in lines):
        others = [line for line in lines if line.behind_ours]
        title = f"{OURS} minus the policy, points (95 % interval; McNemar p)"
        tables.append(_matrix(title, others, lambda line: _gap(line.behind_ours)))
    tables.append(_matrix("bytes kept; next token: KL in nats, same first choice", lines, _next_token))
    return tables


def _matrix(title: str, lines: Sequence[Line], cell: Callable[[Line], str]) -> Table:
    budgets = tuple(dict.fromkeys(line.arm.budget for line in lines))
    cells = {(line.arm.label, line.arm.budget): cell(line) for line in lines}
    labels = dict.fromkeys(line.arm.label for line in lines)
    rows = ((label, *(cells.get((label, budget), "") for budget in budgets)) for label in labels)
    return ((title, *budgets), *rows)


def _grid(table: Table) -> str:
    head, *rows = table
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def _right(line: Line) -> str:
    if not line.asked:
        return "none answered"
    low, high = line.interval
    return f"{100 * line.share:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _share(line: Line, kind: str) -> str:
    right, asked = line.types[kind]
    return f"{100 * right / asked:.1f}"


def _of_dense(line: Line) -> str:
    return " / ".join(_ratio(found) for found in (line.against_dense, line.narration))


def _of_dense_alone(line: Line) -> str:
    found = line.against_dense
    if found is None or found.ratio_interval is None:
        return _ratio(found)
    return f"{_ratio(found)} ({found.ratio_interval[0]:.3f} to {found.ratio_interval[1]:.3f})"


def _ratio(found: Difference | None) -> str:
    return "-" if found is None or found.ratio is None else f"{found.ratio:.3f}"


def _gap(found: Difference | None) -> str:
    if found is None:
        return "-"
    p = "p < 0.001" if found.p < 0.001 else f"p {found.p:.3f}"
    spread = "one video"
    if found.interval:
        low, high = found.interval
        spread = f"{100 * low:+.1f} to {100 * high:+.1f}"
    return f"{100 * found.points:+.1f} ({spread}; {p})"


def _next_token(line: Line) -> str:
    if not line.asked:
        return "-"
    kl = "-" if line.kl is None else f"{line.kl:.3f}"
    agreement = "-" if line.agreement is None else f"{100 * line.agreement:.1f} %"
    return f"{100 * line.kept:.1f} %; {kl}, {agreement}"


def failures(lines: Iterable[Line]) -> list[str]:
    """Errors by arm, for a table without them would flatter."""
    return [
        f"{line.suite}, {line.arm.label} {line.arm.budget}, {line.arm.when}: {count} not answered: {error}"
        for line in lines
        for error, count in line.errors.items()
    ]


def by_suite(rows: Iterable[Mapping[str, Any]]) -> str:
    """The tables of answers as lines of a results file hold them."""
    names = [field.name for field in fields(Graded)]
    return markdown(summarise(Graded(**{name: row[name] for name in names}) for row in rows))


if __name__ == "__main__":
    found = [json.loads(line) for name in sys.argv[1:] for line in Path(name).read_text("utf-8").splitlines()]
    print(by_suite(row for row in found if "settings" not in row), end="")
