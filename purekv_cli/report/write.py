"""A report is written once, whole, when the work is done; whether it can be is found out before the work begins."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from purekv_cli import targets
from purekv_cli.errors import OutOfResources
from purekv_cli.report import html, markdown
from purekv_cli.report.record import Record, to_json

FORMATS: dict[str, Callable[[Record], str]] = {
    ".json": to_json,
    ".md": markdown.render,
    ".html": html.render,
}


def check_target(path: Path) -> None:
    """Raise UsageError unless a report of this name could be written."""
    targets.check_target(path, FORMATS)


def write_report(record: Record, path: Path) -> None:
    """The report of the kind that the file's name asks for."""
    write_whole(FORMATS[path.suffix.lower()](record), path)


def write_whole(text: str, path: Path) -> None:
    """Write beside the target, then rename over it: a reader sees the old file or the new one.

    Raises:
        OutOfResources: the disk said no.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)  # mkstemp makes it private; a report is an ordinary file
        Path(temporary).replace(path)
    except OSError as error:
        raise OutOfResources(
            f"cannot write the report {str(path)!r}: {error.strerror}", "Free some space, then ask again."
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
