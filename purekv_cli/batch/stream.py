"""`-o -`: the records as JSON lines on stdout. Nothing is kept, so nothing can be continued."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from purekv_cli.batch.job import Key
from purekv_cli.batch.ledger import key_of
from purekv_cli.ledger import encoded
from purekv_cli.terminal import Terminal


class Stream:
    """As `ledger.Ledger`, without a file. Errors: BrokenPipeError when the reader has left."""

    path = Path("-")
    settings: dict[str, Any] | None = None
    unreadable = 0

    def __init__(self, terminal: Terminal) -> None:
        self.status: dict[Key, str] = {}
        self._terminal = terminal

    def begin(self, settings: Mapping[str, Any]) -> None:
        self.settings = dict(settings)

    def append(self, record: Mapping[str, Any]) -> None:
        self._terminal.write(encoded(record).decode())
        self.status[key_of(record)] = record["status"]

    def close(self) -> None:
        pass
