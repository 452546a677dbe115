"""Where questions and commands come from: a person with line editing and a history, or a pipe."""

import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from io import TextIOWrapper

import platformdirs

from purekv_cli.terminal import Terminal

PROMPT = "> "
REMEMBERED = 1000  # lines in the history file


def lines(terminal: Terminal) -> Generator[str, None, None]:
    """One line after another until the input ends; for a person, Ctrl-C ends it too."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text: neither a tokenizer nor a file takes them
    if not sys.stdin.isatty():
        for line in sys.stdin:
            yield line.rstrip("\n")
        return
    with _history(terminal):
        while (typed := _asked()) is not None:
            yield typed


def _asked() -> str | None:
    both = sys.stdout.isatty()  # else input() would write its prompt among the answers
    if not both:
        print(PROMPT, end="", file=sys.stderr, flush=True)
    try:
        return input(PROMPT if both else "")
    except (EOFError, KeyboardInterrupt):
        print(file=sys.stderr)
        return None


@contextmanager
def _history(terminal: Terminal) -> Iterator[None]:
    """Line editing, with the lines of earlier chats."""
    try:
        import readline
    except ImportError:  # not on Windows, where the console edits lines itself
        yield
        return
    path = platformdirs.user_state_path("purekv") / "chat_history"
    readline.set_history_length(REMEMBERED)
    try:
        if path.exists():
            readline.read_history_file(path)
    except OSError as error:
        terminal.note(f"note: the history {path} cannot be read: {error.strerror}", style="yellow")
    try:
        yield
    finally:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)
        except OSError as error:
            terminal.note(f"note: the history {path} cannot be written: {error.strerror}", style="yellow")
