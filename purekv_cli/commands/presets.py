"""`purekv presets`: the shipped presets, or one of them in full."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from purekv_cli import presets as shelf
from purekv_cli.commands.options import JsonFlag, with_flags
from purekv_cli.report.record import SCHEMA_VERSION, dumps
from purekv_cli.settings import config_path
from purekv_cli.terminal import page


@with_flags
def presets(
    name: Annotated[str | None, typer.Argument(help="Show this one in full.", metavar="[NAME|FILE]")] = None,
    *,
    flags: JsonFlag,
) -> None:
    """List the presets, or show one."""
    chosen = [shelf.find(name)] if name else [*shelf.shipped().values(), shelf.DEFAULT]
    if flags.json:
        table = [asdict(preset) | {"method": _method(preset)} for preset in chosen]
        print(dumps({"schema_version": SCHEMA_VERSION, "presets": table}), end="")
    elif name:
        page().print(_full(chosen[0]))
    else:
        page().print(_list(chosen))
        page().print(f"Your own defaults go into {config_path()}; a preset of yours is used with --preset FILE.")


def _list(chosen: list[shelf.Preset]) -> Table:
    table = Table("preset", "policy", "budget", "calibrated", "for", box=None, padding=(0, 2, 0, 0))
    for preset in chosen:
        calibrated = "yes" if preset.calibrated else "no"
        models = ", ".join(preset.models) or "any other model"
        table.add_row(preset.name, preset.method.policy, str(preset.method.budget), calibrated, models)
    return table


def _full(preset: shelf.Preset) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("title", preset.title)
    table.add_row("for", ", ".join(preset.models) or "any other model")
    table.add_row("calibrated", "yes" if preset.calibrated else "no")
    for group, values in (("method", _method(preset)), ("clip", asdict(preset.clip))):
        for key, value in values.items():
            if value is not None:
                table.add_row(f"{group}.{key}", str(value))
    return table


def _method(preset: shelf.Preset) -> dict[str, object]:
    """The method's dials, the nested ones with dotted names."""
    values = asdict(preset.method) | {"budget": str(preset.method.budget)}
    sparse = values.pop("sparse")
    return values | {f"sparse.{key}": value for key, value in sparse.items()}
