"""From the flags of `purekv eval` to its result: questions, model, answers into the ledger, tables and files."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from purekv_cli import __version__
from purekv_cli.bench.export import facts
from purekv_cli.commands.model import ChosenModel, choose_model
from purekv_cli.commands.options import ClipFlags, ModelFlags, SoundFlag
from purekv_cli.errors import BatchFailures, UsageError
from purekv_cli.eval import plot, table
from purekv_cli.eval.arms import OF_MODEL
from purekv_cli.eval.datasets import load
from purekv_cli.eval.export import FORMATS, to_json
from purekv_cli.eval.grading import KEY, Grading
from purekv_cli.eval.ledger import Ledger
from purekv_cli.eval.request import read_arms, read_suites, read_world
from purekv_cli.eval.source import ClipWorld, Files, Source
from purekv_cli.eval.summary import Line, summarise
from purekv_cli.eval.work import Job
from purekv_cli.models import registry
from purekv_cli.models.hub import weight_files
from purekv_cli.presets import choose
from purekv_cli.report.write import write_whole
from purekv_cli.settings import Settings, settle
from purekv_cli.targets import check_target
from purekv_cli.terminal import Terminal

if TYPE_CHECKING:
    from purekv_cli.commands.eval import EvalFlags

INTERRUPTED = 130
CLIPWORLD = "clipworld"
LONGEST_ANSWER = 96  # tokens; --max-tokens says otherwise


def run(
    where: str, flags: "EvalFlags", clip: ClipFlags, sound: SoundFlag, model: ModelFlags, arguments: list[str]
) -> None:
    """Everything, in order: what can be wrong with the request is found before any work.

    Raises:
        PureKVError; of it BatchFailures when some questions could not be asked; typer.Exit with 130 after Ctrl-C.
    """
    terminal = Terminal(flags.quiet)
    for path, suffix in ((flags.export_json, ".json"), (flags.export_markdown, ".md"), (flags.plot, ".png")):
        check_target(path, (suffix,))
    check_target(flags.report, FORMATS)
    arms = read_arms(flags)
    settings = settle(clip, sound, model)
    rendered = where == CLIPWORLD
    _check_flags(flags, clip, sound, rendered)
    if rendered and settings.model.model == registry.AUTO:
        settings = replace(settings, model=replace(settings.model, model=registry.DEMO))
    source, chosen = _rendered(flags, settings, terminal) if rendered else _files(where, flags, settings, terminal)
    way = "engine" if flags.way == "engine" or (flags.way == "auto" and not rendered) else "replay"
    longest = model.max_tokens or LONGEST_ANSWER
    made = source.settings | _model_settings(chosen) | {"way": way, "max_tokens": longest, "purekv": __version__}
    problems = list(source.problems)
    interrupted = False
    with Ledger(flags.output, made, KEY) as ledger:
        grading = Grading(source, arms, ledger)
        try:
            problems += grading.run(Job(way, chosen, settings, longest, _workers(flags, chosen, way)), terminal)
        except KeyboardInterrupt:
            interrupted = True
        lines = summarise(grading.answers(), settings.model.seed)
    known = facts(chosen.device, arguments, chosen.source.name, chosen.dtype) | made
    known |= {"videos": len(source.videos), "not asked": len(problems)}
    _show(flags, known, lines, f"{source.name}; {chosen.describe()}", terminal)
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if problems:
        raise BatchFailures(
            f"{len(problems)} entries or videos could not be asked", "The lines above say which and why."
        )


def _rendered(flags: "EvalFlags", settings: Settings, terminal: Terminal) -> tuple[Source, ChosenModel]:
    world = read_world(flags)
    chosen = choose_model(settings, terminal)
    return ClipWorld(world, chosen.geometry), chosen


def _files(where: str, flags: "EvalFlags", settings: Settings, terminal: Terminal) -> tuple[Source, ChosenModel]:
    data = load(Path(where))
    for problem in data.problems:
        terminal.show(f"{problem.where}: {problem.what}")
    if not data.items:
        raise UsageError(
            f"nothing is left to ask: none of {len(data.problems)} entries of {where} can be used",
            "The lines above say why." if data.problems else "It is empty.",
        )
    suites = read_suites(flags, list(dict.fromkeys(item.suite for item in data.items)))
    chosen = choose_model(settings, terminal)
    return Files(data, suites, flags.limit, settings, chosen), chosen


def _workers(flags: "EvalFlags", chosen: ChosenModel, way: str) -> int:
    """As asked; else one, but for the embedded model several, which is small."""
    if flags.workers:
        return flags.workers
    cores = os.cpu_count() or 1
    return min(8, cores) if chosen.source.is_demo and way == "replay" else 1


def _check_flags(flags: "EvalFlags", clip: ClipFlags, sound: SoundFlag, rendered: bool) -> None:
    """Flags that mean nothing here are a mistake."""
    if rendered:
        groups = (clip, sound)
        given = [each.name for group in groups for each in fields(group) if getattr(group, each.name) is not None]
    else:
        given = [name for name in ("clips", "first_seed", "questions", "quick") if getattr(flags, name)]
    if given:
        what = "the clips of clipworld are read whole, and silent" if rendered else "only clipworld has them"
        raise UsageError(f"--{given[0].replace('_', '-')} does not fit here: {what}", "Leave it out.")


def _model_settings(chosen: ChosenModel) -> dict[str, Any]:
    """What tells a model from another, its weights too: a retrained one gives other answers."""
    seen = hashlib.sha256()
    for path in weight_files(chosen.source.folder) if chosen.source.folder else []:
        seen.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as stream:
            seen.update(stream.read(2**20))
            stream.seek(-min(2**20, path.stat().st_size), os.SEEK_END)
            seen.update(stream.read())
    found = chosen.facts()
    known = choose(None, chosen.names).method
    return {
        "model": found["name"],
        "dtype": found["dtype"],
        "weights": seen.hexdigest()[:12],
        **json.loads(json.dumps({name.replace("_", " "): getattr(known, name) for name in OF_MODEL})),  # as read back
    }


def _show(flags: "EvalFlags", known: dict[str, Any], lines: Sequence[Line], title: str, terminal: Terminal) -> None:
    terminal.write(to_json(known, lines) if flags.json else table.markdown(lines))
    for path in (flags.export_json, flags.export_markdown, flags.report):
        if path:
            write_whole(FORMATS[path.suffix.lower()](known, lines), path)
            terminal.note(f"written: {path}")
    if flags.plot and plot.draw(title, lines, flags.plot):
        terminal.note(f"written: {flags.plot}")
