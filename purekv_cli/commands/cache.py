"""`purekv cache`: what earlier questions left on disk, and making room."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from purekv_cli.commands.options import JsonFlag, with_flags
from purekv_cli.report.record import SCHEMA_VERSION, dumps
from purekv_cli.report.units import clock, size
from purekv_cli.settings import settle
from purekv_cli.terminal import page

if TYPE_CHECKING:
    from purekv_cli.store.folder import Entry, Folder

What = Annotated[Literal["list", "clear"], typer.Argument(help="What to do: list or clear.", show_default=False)]
Video = Annotated[str | None, typer.Argument(help="Only what was kept of this video.", metavar="[VIDEO]")]


@with_flags
def cache(what: What = "list", video: Video = None, *, flags: JsonFlag) -> None:
    """List or clear what earlier questions kept of their videos."""
    from purekv_cli.store.folder import Folder

    folder = Folder.of_user()
    entries = folder.entries()
    if video is not None:
        entries = _of(video, entries)
    if what == "clear":
        _clear(folder, entries, as_json=flags.json)
    else:
        _list(folder, entries, as_json=flags.json)


def _of(video: str, entries: "list[Entry]") -> "list[Entry]":
    """By its content, whatever it is called now; by the name it had, whatever has become of it."""
    from purekv_cli.store.content import digest

    path = Path(video)
    content = digest(path) if path.exists() else None
    names, known = (video, str(path.absolute())), [(entry, entry.header) for entry in entries]
    return [entry for entry, header in known if header and (header.video == content or header.facts["path"] in names)]


def _clear(folder: "Folder", entries: "list[Entry]", as_json: bool | None) -> None:
    freed = folder.clear(entries)
    if as_json:
        print(dumps({"schema_version": SCHEMA_VERSION, "cleared": len(entries), "freed_bytes": freed}), end="")
    else:
        print(f"{len(entries)} cleared, {size(freed)} freed")


def _list(folder: "Folder", entries: "list[Entry]", as_json: bool | None) -> None:
    limit, total = settle().cache.limit, sum(entry.bytes for entry in entries)
    if as_json:
        told: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "folder": str(folder.path), "limit_bytes": limit}
        print(dumps(told | {"bytes": total, "entries": [_facts(entry) for entry in entries]}), end="")
        return
    if entries:
        page().print(_table(entries))
        print()
    print(f"{len(entries)} in {folder.path}: {size(total)} of at most {size(limit)} (--cache-limit)")


def _facts(entry: "Entry") -> dict[str, Any]:
    facts = entry.header.facts if entry.header else {}
    return {"file": str(entry.path), "bytes": entry.bytes, "used": entry.used, "damaged": not entry.header} | facts


def _table(entries: "list[Entry]") -> Table:
    from purekv_cli.store.header import ago

    names = ("video", "clip", "frames", "model", "policy", "budget", "size", "made", "last used")
    table = Table(*names, box=None, padding=(0, 2, 0, 0))
    for entry in entries:
        if entry.header is None:
            table.add_row(entry.path.name, "damaged, or of another version", *[""] * 4, size(entry.bytes), "", "")
            continue
        facts = entry.header.facts
        policy = f"{facts['policy']}, {facts['observe']}"
        clip = f"{clock(facts['start'])}-{clock(facts['end'])}"
        told = (Path(facts["path"]).name, clip, str(facts["frames"]), facts["model"], policy, facts["budget"])
        table.add_row(*told, size(entry.bytes), ago(facts["made"]), ago(entry.used))
    return table
