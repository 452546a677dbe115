"""LongVideoBench (Wu et al. 2024): lvb_val.json beside videos/, by length of the video.

Its test split is published without answers. Subtitles are not shown to the model.
"""

from collections.abc import Iterator
from pathlib import Path

from purekv_cli.eval.datasets.entry import Entry
from purekv_cli.eval.datasets.layout import Layout, read_json, records


def read(path: Path, folder: Path) -> Iterator[Entry]:
    for where, record in records(path, read_json(path)):
        options, correct = record.get("candidates"), record.get("correct_choice")
        known = isinstance(options, list) and isinstance(correct, int) and 0 <= correct < len(options)
        yield Entry(
            where,
            {
                "video": f"videos/{record.get('video_path')}",
                "question": record.get("question"),
                "options": options,
                "type": record.get("question_category"),
                "id": record.get("id"),
                "suite": f"{record.get('duration_group')} s",
            },
            correct=correct,
            broken=None if known else f"the correct choice {correct!r} is none of the candidates",
        )


LONGVIDEOBENCH = Layout("LongVideoBench", ("lvb_val.json",), read)
