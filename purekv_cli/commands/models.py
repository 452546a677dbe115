"""`purekv models`: names that -m knows, and what is on this machine already."""

from rich.table import Table

from purekv_cli.commands.options import JsonFlag, with_flags
from purekv_cli.report.record import SCHEMA_VERSION, dumps
from purekv_cli.report.units import size
from purekv_cli.terminal import page


@with_flags
def models(*, flags: JsonFlag) -> None:
    """List the models: what -m takes, and what is cached."""
