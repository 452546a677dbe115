"""The report as Markdown: answers first, then what they cost."""

from purekv_cli.report.record import Record
from purekv_cli.report.stats import rows


def render(record: Record) -> str:
    lines = [f"# {_cell(record.title)}", ""]
    for answer in record.answers:
        lines += [f"**{_cell(answer.question)}**", "", answer.text.strip(), ""]
    lines += [f"- {key}: {_cell(value)}" for key, value in record.summary]
    lines += [f"- damage: {_cell(note)}" for note in record.damage]
    header = ["", *(_cell(answer.question) for answer in record.answers)]
    lines += ["", _row(header), _row(["---"] * len(header))]
    lines += [_row([_cell(cell) for cell in row]) for row in rows(record.answers)]
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
