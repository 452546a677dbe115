"""`purekv models`: names that -m takes, and what is on this machine already."""

from rich.table import Table

from purekv_cli.commands.options import JsonFlag, with_flags
from purekv_cli.report.record import SCHEMA_VERSION, dumps
from purekv_cli.report.units import size
from purekv_cli.terminal import page


@with_flags
def models(*, flags: JsonFlag) -> None:
    """List the models: what -m takes, and what is cached."""
    from purekv_cli.models.hub import cache_folder
    from purekv_cli.models.registry import ALIASES, DEMO, SUPPORTED, cached_models

    cached = {model.name: model for model in cached_models()}
    rows = [(DEMO, "embedded: knows only its rendered world", "here")]
    for alias, name in ALIASES.items():
        here = cached.get(name)
        rows.append((alias, name, f"cached, {size(here.bytes)}" if here else "not here: downloaded when used"))
    for name, model in cached.items():
        if name not in ALIASES.values():
            usable = "" if model.architecture in SUPPORTED else f", not supported ({model.architecture})"
            rows.append((name, name, f"cached, {size(model.bytes)}{usable}"))
    if flags.json:
        named = [dict(zip(("name", "model", "state"), row, strict=True)) for row in rows]
        print(dumps({"schema_version": SCHEMA_VERSION, "cache": str(cache_folder()), "models": named}), end="")
        return
    table = Table("-m", "model", "state", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*row)
    page().print(table)
    page().print(f"Any other hub name or folder works too, of the kinds: {', '.join(SUPPORTED)}.")
    page().print(f"The cache is {cache_folder()}.")
