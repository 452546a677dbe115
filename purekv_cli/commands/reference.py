"""The README's table of flags, made from the flags: `python -m purekv_cli.commands.reference README.md` renews it."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

from purekv_cli.commands.options import (
    CacheFlags,
    ClipFlags,
    MethodFlags,
    ModelFlags,
    OutputFlags,
    SoundFlag,
    SubtitleFlags,
)

BEGIN, END = "<!-- flags: generated -->", "<!-- flags: end -->"
GROUPS = (
    ("Clip", ClipFlags),
    ("Sound", SoundFlag),
    ("Subtitles", SubtitleFlags),
    ("Model", ModelFlags),
    ("Method", MethodFlags),
    ("Cache", CacheFlags),
    ("Output", OutputFlags),
)


def table() -> str:
    """Markdown, one row a flag."""
    lines = ["| | flag | what it does |", "|---|---|---|"]
    for title, group in GROUPS:
        hints = get_type_hints(group, include_extras=True)
        for place, flag in enumerate(fields(group)):
            option = hints[flag.name].__metadata__[0]
            # Typer keeps the first name of an annotated option where its default would stand
            names = ", ".join(f"`{name}`" for name in (option.default, *option.param_decls))
            value = f" `{option.metavar}`".replace("|", "\\|") if option.metavar else ""
            lines.append(f"| {title if place == 0 else ''} | {names}{value} | {option.help} |")
    return "\n".join(lines)


def renewed(text: str) -> str:
    """The README with its table as the code has it."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


if __name__ == "__main__":
    readme = Path(sys.argv[1])
    readme.write_text(renewed(readme.read_text(encoding="utf-8")), encoding="utf-8")
