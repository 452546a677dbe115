"""The Typer root: verbs are registered here, and every way a run can end becomes an exit code and at most two lines.

Importing this module loads neither torch nor transformers nor av; a verb imports what it needs when it runs, so that
`purekv --help` and shell completion answer at once.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from purekv_cli import __version__
from purekv_cli.commands import (
    ask,
    batch,
    bench,
    cache,
    calibrate,
    chat,
    demo,
    doctor,
    explain,
    models,
    policies,
    presets,
    probe,
)
from purekv_cli.commands import eval as evaluation
from purekv_cli.errors import PureKVError
from purekv_cli.terminal import ReaderLeft, Terminal

CLOSED_STDOUT = 141  # what a shell reports for a program whose reader went away
INTERRUPTED = 130

app = typer.Typer(
    name="purekv",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Every flag can also be set in the environment (PUREKV_BUDGET=0.1) or in config.toml.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"purekv {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Ask open video language models about your own videos, with a pruned KV cache."""


app.command("ask")(ask.ask)
app.command("chat")(chat.chat)
app.command("batch")(batch.batch)
app.command("probe")(probe.probe)
app.command("bench")(bench.bench)
app.command("eval")(evaluation.eval_)
app.command("explain")(explain.explain)
app.command("calibrate")(calibrate.calibrate)
app.command("demo")(demo.demo)
app.command("models")(models.models)
app.command("presets")(presets.presets)
app.command("policies")(policies.policies)
app.command("cache")(cache.cache)
app.command("doctor")(doctor.doctor)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: run, then exit with the code that DESIGN promises."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_run(arguments, verbose=bool({"-v", "--verbose"} & set(arguments))))


def _run(arguments: Sequence[str], verbose: bool) -> int:
    try:
        code = typer.main.get_command(app)(arguments, prog_name="purekv", standalone_mode=False) or 0
        sys.stdout.flush()
        return _interrupted() if code == INTERRUPTED else int(code)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except (ReaderLeft, BrokenPipeError):
        return _reader_left()
    except Exception as error:
        if verbose:
            traceback.print_exc()
        code, what, hint = _explain(error)
        if what:
            Terminal().error(what, hint)
        return code


def _explain(error: Exception) -> tuple[int, str, str]:
    """(exit code, what is wrong, what to do)."""
    if isinstance(error, PureKVError):
        return error.exit_code, str(error), error.hint
    if hasattr(error, "format_message"):  # Typer's own usage errors, wherever this version keeps them
        return _usage(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _cpu_out_of_memory(error):
        return (
            5,
            "out of memory",
            "Sample fewer frames (--max-frames), make them smaller (--max-pixels) or use a smaller model.",
        )
    if isinstance(error, OSError) and error.errno == 28:
        return (
            5,
            f"the disk is full: {error.filename or 'no space left'}",
            "Free some space and run the same command again.",
        )
    return 1, f"{type(error).__name__}: {error}", "Run with -v for the traceback; it belongs into a bug report."


def _cpu_out_of_memory(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _usage(error: Exception) -> tuple[int, str, str]:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "purekv"
    message = error.format_message()  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":  # the help has been shown
        return 2, "", ""
    what, _, near = message.replace("Value error, ", "").partition(" Did you mean ")
    if possible := getattr(error, "possibilities", None):  # of an option
        what, near = what.partition(" (Possible")[0], f"{possible[0]}?"
    hint = f"Did you mean {near}" if near else f"See: {path} --help"
    return 2, what[:1].lower() + what[1:].rstrip("."), hint


def _interrupted() -> int:
    Terminal().error("interrupted", "Nothing was left half written; the same command starts again.")
    return INTERRUPTED


def _reader_left() -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains while it shuts down
    return CLOSED_STDOUT
