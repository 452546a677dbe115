"""The part of a record that tells how an item ended."""

from dataclasses import asdict
from typing import Any

from purekv_cli.batch.ledger import ANSWERED, FAILED
from purekv_cli.errors import PureKVError
from purekv_cli.runtime.events import Answer

_MEMORY = "Sample fewer frames (--max-frames), make them smaller (--max-pixels) or use a smaller model."


def answered(answer: Answer, damage: str | None) -> dict[str, Any]:
    """damage: what was wrong with the file, if anything."""
    found = {"status": ANSWERED, "answer": answer.text, "finish": answer.finish}
    if damage:
        found["damage"] = damage
    return found | {"stats": asdict(answer.stats)}


def failed(error: BaseException) -> dict[str, Any]:
    """Type, message and hint of whatever went wrong."""
    kind, hint = type(error).__name__, "Ask about it with `purekv ask ... -v` to see the traceback."
    if isinstance(error, PureKVError):
        hint = error.hint
    elif isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        kind, hint = "OutOfResources", _MEMORY
    elif isinstance(error, OSError):
        hint = "Check that the file is still there and can be read."
    message = " ".join(str(error).split()) or kind
    return {"status": FAILED, "error": {"type": kind, "message": message, "hint": hint}}
