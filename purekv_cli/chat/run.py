"""The order of `purekv chat`: what can be wrong is found first, then the model is loaded, then line after line."""

import sys
import traceback
from contextlib import ExitStack, closing, suppress

import typer

from purekv_cli.chat.commands import Leave, perform
from purekv_cli.chat.lines import lines
from purekv_cli.chat.state import Chat, bars, found_as, read
from purekv_cli.commands.answering import load, planned
from purekv_cli.errors import PureKVError
from purekv_cli.settings import Settings
from purekv_cli.terminal import Terminal


def run(video: str, settings: Settings) -> None:
    """Talk about the video until the input ends.

    Raises:
        typer.Exit: with 1, when a line of a pipe failed.
    """
    terminal = Terminal(settings.output.quiet)
    with ExitStack() as sources:
        plan, model = planned(found_as(video, settings, sources), settings, terminal)
        if settings.output.dry_run:
            return
        room = model.room()  # before the weights take theirs
        clip = read(plan, model, settings, terminal)
        with bars(terminal) as screen:
            adapter = load(model, settings, screen, terminal)
        chat = Chat(settings, model, room, adapter, terminal, sources)
        chat.begin(clip)
        failed = _talk(chat, terminal, settings.output.verbose)
    if failed and not sys.stdin.isatty():
        raise typer.Exit(1)


def _talk(chat: Chat, terminal: Terminal, verbose: bool) -> bool:
    """Whether anything failed."""
    if sys.stdin.isatty():
        terminal.note("Ask about the clip; /help lists the commands.")
    failed = False
    with closing(lines(terminal)) as entered, suppress(Leave):
        for line in entered:
            failed |= not _done(line, chat, terminal, verbose)
    return failed


def _done(line: str, chat: Chat, terminal: Terminal, verbose: bool) -> bool:
    """Do what the line says; False, and what is wrong on stderr, when that failed: the chat goes on."""
    try:
        if line.startswith("/"):
            _commanded(line, chat, terminal)
        elif line.strip():
            chat.ask(line.strip())
    except PureKVError as error:
        terminal.error(str(error), error.hint)
    except (BrokenPipeError, Leave):
        raise
    except Exception as error:
        if verbose:
            traceback.print_exc()
        terminal.error(f"{type(error).__name__}: {error}", "The chat goes on; run it with -v for the traceback.")
    else:
        return True
    return False


def _commanded(line: str, chat: Chat, terminal: Terminal) -> None:
    try:
        perform(line, chat, terminal)
    except KeyboardInterrupt:  # amid the decoding of another clip, say
        terminal.note("interrupted: the chat is as it was")
