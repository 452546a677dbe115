"""A whole eval as JSON with raw counts, and as a Markdown page that says how it was made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from purekv_cli.eval import page, table
from purekv_cli.eval.summary import Line
from purekv_cli.report.record import dumps

SCHEMA_VERSION = 1


def to_json(facts: Mapping[str, Any], lines: Sequence[Line]) -> str:
    """One object: what was run, then every arm in every suite."""
    return dumps({"schema_version": SCHEMA_VERSION, **facts, "arms": [_arm(line) for line in lines]})


def to_markdown(facts: Mapping[str, Any], lines: Sequence[Line]) -> str:
    """For a page of docs/benchmarks."""
    made = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    return f"# purekv eval\n\n{made}\n\n{table.markdown(lines)}"


FORMATS: dict[str, Callable[[Mapping[str, Any], Sequence[Line]], str]] = {
    ".json": to_json,
    ".md": to_markdown,
    ".html": page.render,
}


def _arm(line: Line) -> dict[str, Any]:
    values = asdict(line)
    values |= values.pop("arm")
    values["types"] = {name: {"right": right, "asked": asked} for name, (right, asked) in line.types.items()}
    values |= {"share": line.share, "mean_of_types": line.mean_of_types, "kept": line.kept}
    return values
