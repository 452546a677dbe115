"""A chat between two lines: the loaded model, the clip it is about, and all that was said."""

from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from purekv_cli.chat.transcript import save
from purekv_cli.chat.turn import first_ctrl_c, said, take_turn
from purekv_cli.commands.answering import Screen, generation, plan_for, read_frames, tell_ways
from purekv_cli.commands.model import ChosenModel
from purekv_cli.commands.source import opened
from purekv_cli.errors import UsageError
from purekv_cli.models.base import Adapter
from purekv_cli.pipeline import Plan, Run
from purekv_cli.report.stats import stats_table
from purekv_cli.settings import Settings
from purekv_cli.store.probed import probed
from purekv_cli.store.shelf import open_shelf
from purekv_cli.terminal import Terminal
from purekv_cli.video.frames import Frames
from purekv_cli.video.source import STDIN, Local

SHOWN = 4  # answers that /stats has room for


def found_as(name: str, settings: Settings, sources: ExitStack) -> Local:
    """The video behind a name; a download stays until `sources` is closed.

    Raises:
        UsageError: stdin, where the questions come from. UnreadableInput, OutOfResources: it cannot be downloaded.
    """
    if name == STDIN:
        raise UsageError("questions come on stdin, so the video cannot", "Give a file or an address.")
    return sources.enter_context(opened(name, settings))


def read(plan: Plan, model: ChosenModel, settings: Settings, terminal: Terminal, frames: Frames | None = None) -> Run:
    """The plan's clip, decoded unless its cache is on the disk or its frames are at hand."""
    run = Run(plan, frames, shelf=open_shelf(plan, model, settings, terminal))
    if not run.recall():
        with bars(terminal) as screen:
            read_frames(run, screen, terminal)
    return run


def bars(terminal: Terminal) -> closing[Screen]:
    """A screen for work that answers nothing."""
    return closing(Screen(terminal, [], silent=True, stream=False))


class Chat:
    """What the commands of a chat do; each of them leaves the chat as it was when it fails."""

    def __init__(
        self,
        settings: Settings,
        model: ChosenModel,
        room: int | None,
        adapter: Adapter,
        terminal: Terminal,
        sources: ExitStack,
    ) -> None:
        """`room`: for video tokens, of `ChosenModel.room`; `sources`: keeps what is downloaded until the end."""
        self._settings, self._model, self._room, self._adapter = settings, model, room, adapter
        self._terminal, self._sources = terminal, sources
        self._parts: list[Run] = []  # from one start of the history to the next

    def ask(self, question: str) -> None:
        """The next turn: the answer goes to stdout. Ctrl-C ends the answer; what was said of it stays in the chat."""
        part, output = self._parts[-1], self._settings.output
        assert part.session is not None
        first = not part.answers
        full = part.plan.around.question(question) if first else question
        with first_ctrl_c() as pressed:
            with closing(Screen(self._terminal, [question], silent=False, stream=not output.no_stream)) as screen:
                answer = take_turn(part.session, full, generation(self._settings), screen.show, pressed, first=first)
            if not said(answer):
                self._terminal.note("interrupted before the answer began: the question is forgotten")
                return
            if answer.finish == "interrupted":
                self._terminal.note("interrupted: the chat goes on after what was said")
            answer = replace(answer, question=question)
            part.answers.append(answer)
            tell_ways(part.plan, [answer], self._settings, self._terminal)
            if output.stats:
                self._terminal.show(stats_table([answer]))
            if first:
                part.keep()

    def begin(self, part: Run) -> None:
        """Talk about the clip that was read, from now on."""
        with bars(self._terminal) as screen:
            part.open(self._adapter, "", screen.show)
        self._go_on_with(part)

    def video(self, name: str) -> None:
        """Talk about another clip, the whole of it; subtitles that were given as a file are the first one's."""
        settings = self._settings
        subtitles = replace(settings.subtitles, subs="auto" if settings.subtitles.subs == "auto" else None)
        settings = replace(settings, clip=replace(settings.clip, start=None, end=None), subtitles=subtitles)
        found = found_as(name, settings, self._sources)
        plan = plan_for(probed(found, settings), self._model, self._room, settings, self._terminal)
        self.begin(read(plan, self._model, settings, self._terminal))
        self._settings = settings

    def budget(self, amount: str) -> None:
        """Prune to another budget: the clip is read again at the next question, from the vision features there are."""
        part, settings = self._parts[-1], self._settings
        if part.plan.method.policy == "dense":
            raise UsageError("this chat keeps everything, whatever the budget", "Start it without --dense.")
        settings = replace(settings, method=replace(settings.method, budget=amount))
        plan = plan_for(part.plan.info, self._model, self._room, settings, self._terminal)
        old, now = part.session, read(plan, self._model, settings, self._terminal, part.frames)
        self.begin(now)
        if old is not None and now.session is not None:
            now.session.embeds, now.session.deepstack = old.embeds, old.deepstack
        self._settings = settings

    def reset(self) -> None:
        """Forget what was said, and keep the clip."""
        self._go_on_with(replace(self._parts[-1], answers=[]))

    def stats(self) -> None:
        """Memory and times of the last answers."""
        answers = [answer for part in self._parts for answer in part.answers]
        if not answers:
            raise UsageError("nothing has been answered yet", "Ask something first.")
        self._terminal.show(stats_table(answers[-SHOWN:]))

    def save(self, path: Path) -> None:
        """Write everything that was said."""
        save(self._parts, self._model.facts(), path)
        self._terminal.note(f"written: {path}")

    def _go_on_with(self, part: Run) -> None:
        if self._parts and self._parts[-1].session is not part.session:
            for before in self._parts:
                before.session = before.recalled = None
                if before.frames is not None:  # their damage is still to be told
                    before.frames = replace(before.frames, pixels=before.frames.pixels[:0].copy(), sound=None)
        self._parts.append(part)
