"""How a batch goes, on stderr: a live line where a person looks, a line a minute and one a failure elsewhere."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from purekv_cli.batch.ledger import ANSWERED
from purekv_cli.batch.messages import Died, Done, Message, Ready, Reply
from purekv_cli.report.units import clock
from purekv_cli.terminal import Terminal

EVERY = 60.0  # s between lines where there is no terminal


class Tally:
    """Counts of one run and its rates, which leave out the time before the first model was loaded."""

    def __init__(self, items: int, videos: int, now: Callable[[], float] = time.monotonic) -> None:
        self.items, self.videos = items, videos  # to do in this run
        self.answered = self.failed = self.tokens = self.videos_done = 0
        self._now, self._began = now, now()
        self._ready: float | None = None

    def take(self, message: Message) -> None:
        match message:
            case Ready() if self._ready is None:
                self._ready = self._now()
            case Reply(_, outcome) if outcome["status"] == ANSWERED:
                self.answered += 1
                self.tokens += outcome.get("stats", {}).get("new_tokens", 0)
            case Reply():
                self.failed += 1
            case Done(videos):
                self.videos_done += videos

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return self._now() - self._began

    @property
    def working(self) -> float:
        """Seconds since the first worker was ready."""
        return 0.0 if self._ready is None else self._now() - self._ready

    @property
    def videos_per_hour(self) -> float:
        return 3600 * self.videos_done / self.working if self.working else 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.working if self.working else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None before the first video is finished."""
        if not self.videos_done:
            return None
        return (self.videos - self.videos_done) * self.working / self.videos_done

    def rates(self) -> str:
        return f"{self.videos_per_hour:.0f} videos/h, {self.tokens_per_second:.1f} tokens/s"

    def line(self) -> str:
        left = "" if self.seconds_left is None else f", {clock(round(self.seconds_left))} left"
        return f"{self.answered} answered, {self.failed} failed of {self.items}, {self.rates()}{left}"


class Screen:
    """Shows a tally as it grows."""

    def __init__(self, terminal: Terminal, tally: Tally) -> None:
        self._quiet, self._tally = terminal.quiet, tally
        self._console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._last, self._failure = time.monotonic(), ""
        if terminal.bars:
            self._bar = Progress(
                BarColumn(bar_width=10),
                TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._bar.add_task("loading the model", total=tally.items)
            self._bar.start()

    def said(self, message: Message) -> None:
        self._tally.take(message)
        match message:
            case Ready(facts, pid):
                self.note(f"worker {pid}: {facts}")
            case Died(why):
                self.note(f"note: a worker died ({why}); another one is started", "yellow")
            case Reply(item, outcome) if outcome["status"] != ANSWERED:
                failure = f"failed: {item.video}: {outcome['error']['message']}"
                if failure != self._failure:  # once for all questions about a video
                    self.note(failure, "yellow")
                self._failure = failure
        if self._bar:
            done = self._tally.answered + self._tally.failed
            self._bar.update(self._task, completed=done, description=self._tally.line())
        elif time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            self.note(self._tally.line())

    def note(self, text: str, style: str = "dim") -> None:
        if not self._quiet:
            self._console.print(Text(text, style=style))

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
