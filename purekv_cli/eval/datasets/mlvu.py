"""MLVU's dev set (Zhou et al. 2024): json/1_plotQA.json to 7_topic_reasoning.json, videos in video/1_plotQA and so on.

Its last two tasks are texts that a judge model grades, and its test set is published without answers: not read here.
"""

from collections.abc import Iterator
from pathlib import Path

from purekv_cli.eval.datasets.entry import Entry
from purekv_cli.eval.datasets.layout import Layout, option_number, read_json, records


def read(path: Path, folder: Path) -> Iterator[Entry]:
    for number, (where, record) in enumerate(records(path, read_json(path))):
        yield Entry(
            where,
            {
                "video": f"video/{path.stem}/{record.get('video')}",
                "question": record.get("question"),
                "options": record.get("candidates"),
                "answer": record.get("answer"),
                "type": record.get("question_type"),
                "id": f"{path.stem}:{number}",
            },
            correct=option_number(record),
        )


MLVU = Layout("MLVU", ("json/[1-7]_*.json",), read)
