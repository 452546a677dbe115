"""The ledger as a table for people: out.csv or out.md beside out.jsonl, written whole and then put in place."""

import csv
import io
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from purekv_cli.batch.ledger import records
from purekv_cli.errors import OutOfResources

Format = Literal["csv", "md"]
COLUMNS = ("id", "video", "start", "end", "question", "status", "answer", "finish", "damage", "error", "hint")
MEASURED = ("prompt_tokens", "new_tokens", "kv_bytes_full", "kv_bytes_kept", "first_token_seconds")


def export(ledger: Path, form: Format) -> Path:
    """Write the latest record of every item; returns the new file's path."""
    target = ledger.with_suffix(f".{form}")
    handle, temporary = tempfile.mkstemp(dir=ledger.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.writelines(_csv(records(ledger)) if form == "csv" else _markdown(records(ledger)))
        Path(temporary).chmod(ledger.stat().st_mode & 0o777)
        Path(temporary).replace(target)
    except OSError as error:
        raise OutOfResources(
            f"cannot write {target}: {error.strerror}", f"The answers are safe in {ledger}."
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target


def row(record: Mapping[str, Any]) -> list[str]:
    """One record's cells."""
    error = record.get("error", {})
    cells = {**record, "error": error.get("message"), "hint": error.get("hint")}
    stats = record.get("stats", {})
    values = [*(cells.get(name) for name in COLUMNS), *(stats.get(name) for name in MEASURED)]
    return ["" if value is None else str(value) for value in values]


def _csv(found: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for cells in ([*COLUMNS, *MEASURED], *map(row, found)):
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        yield line.getvalue()


def _markdown(found: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    yield "| video | question | answer |\n| --- | --- | --- |\n"
    for record in found:
        answer = record.get("answer", f"failed: {record.get('error', {}).get('message')}")
        yield f"| {_cell(Path(record['video']).name)} | {_cell(record['question'])} | {_cell(answer)} |\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
