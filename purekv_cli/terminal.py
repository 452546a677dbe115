"""Where words go: stdout is the answer and nothing else, stderr is everything else.

Bars and colour appear only where a person looks: stderr is a terminal and NO_COLOR is not set. Errors are two lines,
what is wrong and what to do.
"""

import sys

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text as Styled

from purekv_cli.runtime.events import Progress as Step
from purekv_cli.runtime.events import Stage


class ReaderLeft(Exception):
    """Whoever read stdout is gone (`| head -1`). Not an OSError: Typer would take that for its own to handle."""


class Terminal:
    """Both streams of one run. Answers may hold anything, so nothing here reads markup."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.bars = sys.stderr.isatty() and not quiet
        self._err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

    def write(self, piece: str) -> None:
        """A piece of the answer, at once."""
        sys.stdout.write(piece)
        sys.stdout.flush()

    def note(self, text: str, style: str = "dim") -> None:
        """A line of news on stderr; --quiet keeps it back."""
        if not self.quiet:
            self._err.print(Styled(text, style=style))

    def show(self, table: RenderableType) -> None:
        """Something that was asked for by a flag, on stderr: shown even under --quiet."""
        self._err.print(table)

    def error(self, what: str, hint: str) -> None:
        """The two lines every failure ends with."""
        self._err.print(Styled("purekv: ", style="bold red").append(_one_line(what), style="not bold default"))
        self._err.print(Styled(f"  {_one_line(hint)}"))

    def stages(self) -> "Stages":
        return Stages(self._err if self.bars else None)


class Stages:
    """One bar a stage (load, decode, vision, prefill), gone when the answer begins. Silent without a terminal."""

    def __init__(self, console: Console | None) -> None:
        self._progress = console and Progress(
            TextColumn("{task.description:>8}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            redirect_stdout=False,  # the answer goes to the real stdout, never through stderr
            redirect_stderr=False,
        )
        self._tasks: dict[Stage, int] = {}

    def update(self, step: Step) -> None:
        if not self._progress:
            return
        if step.stage not in self._tasks:
            self._progress.start()
            self._tasks[step.stage] = self._progress.add_task(step.stage, total=step.total or None)
        self._progress.update(self._tasks[step.stage], completed=step.done, total=step.total or None)  # type: ignore[arg-type]

    def clear(self) -> None:
        """Take the bars off the screen, so that what is printed next stands alone."""
        if self._progress:
            self._progress.stop()
            for task in self._tasks.values():
                self._progress.remove_task(task)  # type: ignore[arg-type]
            self._tasks.clear()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def page() -> Console:
    """stdout for verbs whose answer is a table (probe, doctor, models): plain and unwrapped when piped."""
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 200)
