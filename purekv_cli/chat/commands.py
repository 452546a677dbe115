"""The lines of a chat that begin with a slash."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from purekv_cli.chat.state import Chat
from purekv_cli.errors import UsageError, unknown
from purekv_cli.terminal import Terminal
from purekv_cli.video.source import is_url


@dataclass(frozen=True, slots=True)
class Command:
    """One of them; `run` gets what stands behind the name."""

    names: tuple[str, ...]
    help: str
    run: Callable[[Chat, str], None]
    argument: str = ""  # as the help names it; empty: it takes none


class Leave(Exception):
    """Raised by /quit."""


def _leave(chat: Chat, _: str) -> None:
    raise Leave


COMMANDS = (
    Command(("/video",), "Another clip; the history starts anew.", lambda chat, it: chat.video(_as_meant(it)), "PATH"),
    Command(
        ("/budget",),
        "Read the clip anew, pruned to 0.1, 4096t or 64MiB; the history starts anew.",
        lambda chat, it: chat.budget(it),
        "AMOUNT",
    ),
    Command(("/reset", "/new"), "Forget what was said; the clip stays.", lambda chat, _: chat.reset()),
    Command(("/stats",), "Memory and times of the last answers.", lambda chat, _: chat.stats()),
    Command(("/save",), "Write the whole chat: .md or .json.", lambda chat, it: chat.save(Path(_as_meant(it))), "FILE"),
    Command(("/quit", "/exit"), "Leave; so do Ctrl-D, and Ctrl-C at the prompt.", _leave),
)
HELP = "/help"


def perform(line: str, chat: Chat, terminal: Terminal) -> None:
    """Do what a line beginning with a slash says.

    Raises:
        Leave: the chat is over. UsageError: no such command, or not with this argument; and what the command raises.
    """
    name, _, argument = line.strip().partition(" ")
    name, argument = name.lower(), argument.strip()
    if name == HELP:
        terminal.show(_help())
        return
    known = {name: command for command in COMMANDS for name in command.names}
    if name not in known:
        raise unknown("command", name, [*known, HELP])
    command = known[name]
    if bool(argument) != bool(command.argument):
        what = f"needs {command.argument}" if command.argument else f"takes nothing, not {argument!r}"
        raise UsageError(f"{name} {what}", f"Write: {name} {command.argument}")
    command.run(chat, argument)


def _help() -> Table:
    table = Table.grid(padding=(0, 2))
    for command in COMMANDS:
        table.add_row(f"{', '.join(command.names)} {command.argument}", command.help)
    return table


def _as_meant(text: str) -> str:
    """A path as it was typed, or as a terminal writes one that was dropped into it: quoted or with backslashes."""
    if is_url(text):
        return text
    typed = Path(text).expanduser()
    try:
        parts = shlex.split(text)
    except ValueError:  # an open quote
        parts = []
    return str(typed if typed.exists() or len(parts) != 1 else Path(parts[0]).expanduser())
