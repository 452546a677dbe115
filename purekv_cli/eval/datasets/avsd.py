"""AVSD (Alamri et al. 2019, the DSTC challenges): a dialogue about a Charades video; its last question is asked.

The turns before are turns of the conversation, each question with its answer. The caption is left out: it tells what
the video shows, so an answer would no longer need what was kept of it. Videos are looked for by `image_id` anywhere
below the folder. Answers are sentences: exact match says little about them, the next-token measures say more.
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
        *before, last = turns
        answer = last["answer"]
        yield Entry(
            where,
            {
                "video": video_of(folder, str(record.get("image_id"))),
                "question": last["question"],
                "answer": answer,
                "type": "dialogue",
                "id": record.get("image_id"),
            },
            talk=tuple((turn["question"], turn["answer"]) for turn in before),
            broken="its last answer is undisclosed" if answer == _SECRET else None,
        )


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and all(isinstance(turn.get(name), str) for name in ("question", "answer"))


AVSD = Layout("AVSD", ("valid*AVSD*.json", "*AVSD*.json"), read)
