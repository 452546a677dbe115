"""AVSD (Alamri et al. 2019, the DSTC challenges): a dialogue about a Charades video; its last question is asked.

The prompt holds the caption and the turns before. Videos are looked for by `image_id` anywhere below the folder.
Answers are sentences: exact match says little about them, the next-token measures say more.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from purekv_cli.errors import UnreadableInput
from purekv_cli.eval.datasets.entry import Entry
from purekv_cli.eval.datasets.layout import Layout, read_json, records, video_of

_SECRET = "__UNDISCLOSED__"  # the answer, in the challenge's test sets


def read(path: Path, folder: Path) -> Iterator[Entry]:
    found = read_json(path)
    if not isinstance(found, dict) or "dialogs" not in found:
        raise UnreadableInput(f"{path} holds no dialogs", "Give one of AVSD's annotation files.")
    for where, record in records(path, found["dialogs"]):
        turns = record.get("dialog")
        if not isinstance(turns, list) or not turns or not all(_is_turn(turn) for turn in turns):
            yield Entry(where, {}, broken="'dialog' is not a list of questions and answers")
            continue
        answer = turns[-1]["answer"]
        yield Entry(
            where,
            {
                "video": video_of(folder, str(record.get("image_id"))),
                "question": _prompt(record.get("caption"), turns),
                "answer": answer,
                "type": "dialogue",
                "id": record.get("image_id"),
            },
            broken="its last answer is undisclosed" if answer == _SECRET else None,
        )


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and all(isinstance(turn.get(name), str) for name in ("question", "answer"))


def _prompt(caption: Any, turns: list[dict[str, str]]) -> str:
    lines = [f"Caption: {caption}"] if isinstance(caption, str) else []
    for turn in turns[:-1]:
        lines += [f"Question: {turn['question']}", f"Answer: {turn['answer']}"]
    return "\n".join([*lines, f"Question: {turns[-1]['question']}"])


AVSD = Layout("AVSD", ("valid*AVSD*.json", "*AVSD*.json"), read)
