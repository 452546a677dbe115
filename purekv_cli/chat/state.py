"""A chat between two lines: the loaded model, the clip it is about, and all that was said."""

from dataclasses import replace
from pathlib import Path

from purekv_cli.chat.transcript import save
from purekv_cli.chat.turn import first_ctrl_c, said, take_turn
from purekv_cli.commands.answering import Screen, generation, plan_for, read_frames, tell_ways
from purekv_cli.commands.model import ChosenModel
from purekv_cli.errors import UsageError
from purekv_cli.models.base import Adapter
from purekv_cli.pipeline import Run
from purekv_cli.report.stats import stats_table
from purekv_cli.runtime.engine import Engine
from purekv_cli.settings import Settings
from purekv_cli.terminal import Terminal
from purekv_cli.video.probe import probe

SHOWN = 4  # answers that /stats has room for


class Chat:
    """What the commands of a chat do; each of them leaves the chat as it was when it fails."""

    def __init__(self, settings: Settings, model: ChosenModel, room: int | None, adapter: Adapter, terminal: Terminal):
        self._settings, self._model, self._room, self._adapter = settings, model, room, adapter
        self._terminal = terminal
        self._parts: list[Run] = []  # from one start of the history to the next; only the last has a session

    def ask(self, question: str) -> None:
        """The next turn: the answer goes to stdout. Ctrl-C ends the answer; what was said of it stays in the chat."""
        part, output = self._parts[-1], self._settings.output
        assert part.session is not None
        screen = Screen(self._terminal, [question], silent=False, stream=not output.no_stream)
        try:
            with first_ctrl_c() as pressed:
                answer = take_turn(
                    part.session,
                    question,
                    generation(self._settings),
                    screen.show,
                    pressed,
                    first=not part.answers,
                )
        finally:
            screen.close()
        if not said(answer):
            self._terminal.note("interrupted before the answer began: the question is forgotten")
            return
        if answer.finish == "interrupted":
            self._terminal.note("interrupted: the chat goes on after what was said")
        part.answers.append(answer)
        tell_ways(part.plan, [answer], self._settings, self._terminal)
        if output.stats:
            self._terminal.show(stats_table([answer]))

    def begin(self, run: Run) -> None:
        """Talk about the run's clip, whose frames are decoded, from now on."""
        screen = Screen(self._terminal, [], silent=False, stream=False)
        try:
            run.open(self._adapter, "", screen.show)
        finally:
            screen.close()
        if run.frames is not None:  # the session has what it needs of them
            run.frames = replace(run.frames, pixels=run.frames.pixels[:0].copy(), sound=None)
        self._go_on_with(run)

    def video(self, path: Path) -> None:
        """Talk about another clip, the whole of it."""
        settings = self._settings
        settings = replace(settings, clip=replace(settings.clip, start=None, end=None))
        run = Run(plan_for(probe(path), self._model, self._room, settings, self._terminal))
        screen = Screen(self._terminal, [], silent=False, stream=False)
        try:
            read_frames(run, screen, self._terminal)
        finally:
            screen.close()
        self.begin(run)
        self._settings = settings

    def budget(self, amount: str) -> None:
        """Read the clip again, pruned to another budget, at the next question; its vision features are kept."""
        part, settings = self._parts[-1], self._settings
        assert part.session is not None
        if part.plan.method.policy == "dense":
            raise UsageError("this chat keeps everything, whatever the budget", "Start it without --dense.")
        settings = replace(settings, method=replace(settings.method, budget=amount))
        plan = plan_for(part.plan.info, self._model, self._room, settings, self._terminal)
        old = part.session
        spent = {"decode_seconds": old.decode_seconds, "prepare_seconds": old.prepare_seconds}
        session = Engine(self._adapter, plan.method).open(old.inputs, **spent)
        session.embeds, session.deepstack = old.embeds, old.deepstack
        self._go_on_with(Run(plan, part.frames, session=session))
        self._settings = settings

    def reset(self) -> None:
        """Forget what was said, and keep the clip."""
        part = self._parts[-1]
        self._go_on_with(Run(part.plan, part.frames, session=part.session))

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
        if self._parts:
            self._parts[-1].session = None
        self._parts.append(part)
