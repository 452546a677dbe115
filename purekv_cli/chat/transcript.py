"""The whole chat as a file: Markdown to read, JSON to work with; every answer with its clip, plan and cost."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from purekv_cli import __version__
from purekv_cli.pipeline import Run
from purekv_cli.report.build import build, plan_line
from purekv_cli.report.record import SCHEMA_VERSION, as_dict, dumps
from purekv_cli.report.write import write_whole
from purekv_cli.targets import check_target

ENDS = {"length": "cut off at --max-tokens", "interrupted": "interrupted"}


def save(parts: Sequence[Run], model: dict[str, Any], path: Path) -> None:
    """Write the parts that have answers: a part is a clip at a budget, from one start of the history to the next.

    Raises:
        UsageError: a name of another kind, or no such folder. OutOfResources: the disk said no.
    """
    check_target(path, FORMATS)
    text = FORMATS[path.suffix.lower()]([part for part in parts if part.answers], model)
    write_whole(text, path)


def _markdown(parts: Sequence[Run], model: dict[str, Any]) -> str:
    lines = []
    for part in parts:
        lines += [f"# {part.plan.info.path.name}", "", plan_line(part.plan, model["name"]), ""]
        lines += [f"- damage: {note}" for note in part.damage] + [""] * bool(part.damage)
        for answer in part.answers:
            end = ENDS.get(answer.finish)
            lines += [f"**{answer.question}**", "", answer.text.strip(), "", *([f"*({end})*", ""] if end else [])]
    return "\n".join(lines)


def _json(parts: Sequence[Run], model: dict[str, Any]) -> str:
    """Each part as `ask --json` would print it."""
    records = [as_dict(build(part, model)) for part in parts]
    return dumps({"schema_version": SCHEMA_VERSION, "purekv": __version__, "parts": records})


FORMATS: dict[str, Callable[[Sequence[Run], dict[str, Any]], str]] = {".md": _markdown, ".json": _json}
