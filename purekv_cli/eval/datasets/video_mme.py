"""Video-MME (Fu et al. 2024): 900 videos, three questions each, by length of the video.

Published as videomme/test-*.parquet with videos named by their `videoID`. A JSON export of that table (a list of
records, videomme/*.json) is read without further packages.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from purekv_cli.errors import UsageError
from purekv_cli.eval.datasets.entry import Entry
from purekv_cli.eval.datasets.layout import Layout, read_json, records, video_of


def read(path: Path, folder: Path) -> Iterator[Entry]:
    for where, record in records(path, read_json(path) if path.suffix == ".json" else _read_parquet(path)):
        yield Entry(
            where,
            {
                "video": video_of(folder, str(record.get("videoID"))),
                "question": record.get("question"),
                "options": record.get("options"),
                "answer": record.get("answer"),
                "type": record.get("task_type"),
                "id": record.get("question_id"),
                "suite": record.get("duration"),
            },
        )


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise UsageError(
            f"{path} is a parquet file, and pyarrow is not installed",
            "Install pyarrow, or put a JSON export of the table (a list of records) beside it: "
            f"{path.with_name('test.json')}.",
        ) from None
    found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return found


VIDEO_MME = Layout("Video-MME", ("videomme/*.json", "videomme/test-*.parquet"), read)
