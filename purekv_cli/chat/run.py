"""The order of `purekv chat`: what can be wrong is found first, then the model is loaded, then line after line."""

import sys
import traceback
from contextlib import closing, suppress
from pathlib import Path

import typer

from purekv_cli.chat.commands import Leave, perform
from purekv_cli.chat.lines import lines
from purekv_cli.chat.state import Chat
from purekv_cli.commands.answering import Screen, load, planned, read_frames
from purekv_cli.errors import PureKVError
from purekv_cli.pipeline import Run
from purekv_cli.settings import Settings
from purekv_cli.terminal import Terminal


def run(video: Path, settings: Settings) -> None:
    """Talk about the video until the input ends.

    Raises:
        typer.Exit: with 1, when a line of a pipe failed.
    """
    terminal = Terminal(settings.output.quiet)
    plan, model = planned(video, settings, terminal)
    if settings.output.dry_run:
        return
    room = model.room()  # of a clip: before the weights take theirs
    screen = Screen(terminal, [], silent=False, stream=False)
    try:
        clip = Run(plan)
        read_frames(clip, screen, terminal)
        adapter = load(model, settings, screen, terminal)
    finally:
        screen.close()
    chat = Chat(settings, model, room, adapter, terminal)
    chat.begin(clip)
    alone = not sys.stdin.isatty()
    if not alone:
        terminal.note("Ask about the clip; /help lists the commands.")
    failed = False
    with closing(lines(terminal)) as entered, suppress(Leave):
        for line in entered:
            failed |= not _done(line, chat, terminal, settings.output.verbose)
    if alone and failed:
        raise typer.Exit(1)


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
