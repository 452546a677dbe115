"""One's own questions: a JSONL file, one object a line. Video paths are relative to the file."""

import json
from collections.abc import Iterator
from pathlib import Path

from purekv_cli.eval.datasets.entry import Entry


def read(path: Path) -> Iterator[Entry]:
    """Every line that is not blank."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            where = f"{path.name}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                values = json.loads(text) if text else None
            except ValueError as error:  # of the encoding too
                yield Entry(where, {}, broken=f"no JSON: {error}")
                continue
            if isinstance(values, dict):
                yield Entry(where, values)
            elif text:
                yield Entry(where, {}, broken="no JSON object")
