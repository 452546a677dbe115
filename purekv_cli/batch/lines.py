"""Lists of jobs: a line is a path, or a JSON object {video, question, id?, start?, end?}."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from purekv_cli.batch.job import Item
from purekv_cli.errors import UsageError
from purekv_cli.settings import parse_time
from purekv_cli.video.source import is_url

KEYS = ("video", "question", "id", "start", "end")


def items_of_lines(lines: Iterable[str], questions: Sequence[str], source: str) -> Iterator[Item]:
    """The items of a list; a line without a question of its own is asked all `questions`.

    Raises:
        UsageError: a line that is neither a path nor a job, with its number.
    """
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        where = f"{source}, line {number}"
        job = _parsed(text, where) if text.startswith("{") else {"video": text}
        asked = [job["question"]] if job.get("question") else questions
        if not asked:
            raise UsageError(f"{where} asks nothing", 'Give it a "question", or ask all lines with -q.')
        video = job["video"]
        if video == "-":
            raise UsageError(f"{where}: a video of a batch cannot come from stdin", "Give its path or its address.")
        if not is_url(video):
            video = os.path.abspath(os.path.expanduser(video))  # noqa: PTH100, PTH111
        for question in asked:
            yield Item(video, question, job.get("id"), _time(job, "start", where), _time(job, "end", where))


def _parsed(text: str, where: str) -> Mapping[str, Any]:
    try:
        job: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where} is not valid JSON: {error.msg}", "Write one object a line.") from None
    if not isinstance(job.get("video"), str) or not job["video"]:
        raise UsageError(f"{where} names no video", 'A job is {"video": "clip.mp4", "question": "what happens?"}.')
    if not isinstance(job.get("question", ""), str | None):
        raise UsageError(f"{where}: the question is no text", 'A job is {"video": "...", "question": "..."}.')
    if isinstance(job.get("id"), bool) or not isinstance(job.get("id"), str | int | None):
        raise UsageError(f"{where}: the id is neither text nor a whole number", "Leave it out, or mend it.")
    for key in job:  # other columns are the caller's own, but a misspelt one of ours would be lost in silence
        if key not in KEYS and (near := get_close_matches(key, KEYS, n=1, cutoff=0.75)):
            raise UsageError(f"{where}: there is no {key!r}", f"Did you mean {near[0]!r}?")
    return job


def _time(job: Mapping[str, Any], name: str, where: str) -> float | None:
    value = job.get(name)
    if value is None:
        return None
    try:
        return parse_time(str(value))
    except UsageError as error:
        raise UsageError(f"{where}: {error}", error.hint) from None
