"""A part of a video in one string: "clip.mp4#t=12.5,20", as W3C Media Fragments write it.

Some data sets ask about a few seconds of a longer file. The part belongs to the video's name in items and results, so
that two parts of one file are two videos.
"""

import re
from pathlib import Path

_PART = re.compile(r"(?P<path>.+)#t=(?P<start>\d+(?:\.\d+)?)?(?:,(?P<end>\d+(?:\.\d+)?))?", re.DOTALL)


def part_of(path: str | Path, start: float | None = None, end: float | None = None) -> str:
    """The name of the seconds from `start` to `end`; None is the file's own beginning or end."""
    if start is None and end is None:
        return str(path)
    return f"{path}#t={_seconds(start)}" + (f",{_seconds(end)}" if end is not None else "")


def split_part(video: str) -> tuple[Path, float | None, float | None]:
    """(file, start, end) of a name."""
    match = _PART.fullmatch(video)
    if not match:
        return Path(video), None, None
    start, end = (float(match[name]) if match[name] else None for name in ("start", "end"))
    return Path(match["path"]), start, end


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}".rstrip("0").rstrip(".")
