"""`purekv models list`: names that -m takes, what is on this machine already, and which families were verified how."""

from typing import Annotated, Literal

import typer
from rich.table import Table

from purekv_cli.commands.options import JsonFlag, with_flags
from purekv_cli.report.record import SCHEMA_VERSION, dumps
from purekv_cli.report.units import size
from purekv_cli.terminal import page

What = Annotated[Literal["list"], typer.Argument(help="What to do: list them.", show_default=False)]


@with_flags
def models(what: What = "list", *, flags: JsonFlag) -> None:
    """List the models: what -m takes, what is cached, and the supported families."""
    from purekv_cli.models.hub import cache_folder
    from purekv_cli.models.registry import ALIASES, CONTRACT, DEMO, FAMILIES, SUPPORTED, cached_models

    cached = {model.name: model for model in cached_models()}
    rows = [(DEMO, "embedded: knows only its rendered world", "here")]
    for alias, name in ALIASES.items():
        here = cached.get(name)
        rows.append((alias, name, f"cached, {size(here.bytes)}" if here else "not here: downloaded when used"))
    for name, model in cached.items():
        if name not in ALIASES.values():
            usable = "" if model.architecture in SUPPORTED else f", not supported ({model.architecture})"
            rows.append((name, name, f"cached, {size(model.bytes)}{usable}"))
    families = {family.name: family for family in FAMILIES.values()}
    architectures = {name: ", ".join(key for key, is_of in SUPPORTED.items() if is_of == name) for name in families}
    if flags.json:
        named = [dict(zip(("name", "model", "state"), row, strict=True)) for row in rows]
        kinds = [
            {"name": name, "title": each.title, "architectures": architectures[name], "verified": each.verified}
            for name, each in families.items()
        ]
        told = {"schema_version": SCHEMA_VERSION, "cache": str(cache_folder()), "models": named, "families": kinds}
        print(dumps(told | {"contract": CONTRACT}), end="")
        return
    table = Table("-m", "model", "state", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*row)
    page().print(table)
    page().print("\nAny other hub name or folder works too, of these families:\n")
    table = Table("family", "architectures in config.json", "verified", box=None, padding=(0, 2, 0, 0))
    for name, each in families.items():
        table.add_row(each.title, architectures[name].replace(", ", "\n"), each.verified)
    page().print(table)
    page().print(f"\n{CONTRACT}")
    page().print(f"\nThe cache is {cache_folder()}.")
