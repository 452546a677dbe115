"""How far an eval is: a bar for a person, a line every tenth of the way for a log. stderr only."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from purekv_cli.report.units import clock
from purekv_cli.terminal import Terminal


class Steps:
    """Counts videos of `total`; those that an earlier run has done count from the start."""

    def __init__(self, terminal: Terminal, total: int, done: int) -> None:
        self._terminal, self._total, self._done = terminal, total, done
        self._first, self._began = done, time.monotonic()
        self._bar: Progress | None = None
        if terminal.bars:
            columns = (BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            console = Console(stderr=True, highlight=False, markup=False)
            self._bar = Progress(TextColumn("videos"), *columns, console=console, transient=True)

    def __enter__(self) -> "Steps":
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total, completed=self._done)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def step(self) -> None:
        """One video more is done."""
        self._done += 1
        if self._bar:
            self._bar.update(self._task, completed=self._done)
        elif self._done * 10 // self._total > (self._done - 1) * 10 // self._total:
            spent = time.monotonic() - self._began
            left = spent / (self._done - self._first) * (self._total - self._done)
            about = f", about {clock(left)} left" if left >= 1 else ""
            self._terminal.note(f"purekv eval: {self._done} of {self._total} videos, {clock(spent)}{about}")

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._bar:
            self._bar.console.print(text)
        else:
            self._terminal.note(text, style="yellow")
