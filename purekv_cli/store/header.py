"""What a file of the cache says of itself: readable without torch, and only if it is whole."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

FORMAT = 1
_ABOUT, _SUM = "purekv", "sha256"


class Damaged(Exception):
    """A file that is not as it was written, in words."""


@dataclass(frozen=True, slots=True)
class Header:
    """About one prefill."""

    key: str
    video: str  # digest of the clip's bytes
    facts: dict[str, Any]  # for people: of `Key`
    state: dict[str, Any]  # of the session, what is no tensor
    tensors: dict[str, str]  # SHA-256 of each tensor's bytes
    format: int = FORMAT

    def metadata(self) -> dict[str, str]:
        """As safetensors keeps it."""
        about = json.dumps(asdict(self))
        return {_ABOUT: about, _SUM: hashlib.sha256(about.encode()).hexdigest()}


def read_header(path: Path) -> Header:
    """What the file says of itself; its tensors are not read.

    Raises:
        Damaged: it is cut off, changed, or something else.
    """
    try:
        with safe_open(path, framework="np") as opened:
            metadata = opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise Damaged(str(error) or type(error).__name__) from None
    about = metadata.get(_ABOUT, "")
    if hashlib.sha256(about.encode()).hexdigest() != metadata.get(_SUM):
        raise Damaged("its header was changed")
    known = json.loads(about)
    if known.get("format") != FORMAT:
        raise Damaged(f"its format is {known.get('format')}, not {FORMAT}")
    return Header(**known)


def ago(when: float) -> str:
    """A time (s since 1970) as people say it: "just now", "5 min ago", "3 days ago"."""
    seconds = max(0.0, time.time() - when)
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (unit != "days" and seconds >= length):
            return f"{int(seconds // length)} {unit} ago"
    return "just now"
