"""What `ask`, `demo`, `explain` and `chat` share: plan, work, and show answers as they come.

stdout holds the answers and nothing else; with several questions each line is `question<TAB>answer`. The order is:
everything that can be wrong is found first (report path, file, model, policy, range), then the plan line, then work.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from purekv_cli.answers.checked import Checked
from purekv_cli.answers.schema import Schema
from purekv_cli.answers.times import outside
from purekv_cli.commands.model import ChosenModel, choose_model
from purekv_cli.demo import NOTICE
from purekv_cli.kernels import allow
from purekv_cli.pipeline import Plan, Run, shares_prefill, with_text
from purekv_cli.report.build import also_facts, build, plan_facts, plan_line, video_facts
from purekv_cli.report.record import SCHEMA_VERSION, dumps, to_json
from purekv_cli.report.stats import stats_table
from purekv_cli.report.write import check_target, write_report
from purekv_cli.runtime.events import Answer, Event, Progress, Text
from purekv_cli.settings import OutputSettings, Settings
from purekv_cli.store.probed import probed
from purekv_cli.terminal import Terminal
from purekv_cli.together import plan_together
from purekv_cli.video.info import VideoInfo
from purekv_cli.video.source import Local

if TYPE_CHECKING:
    from purekv_cli.models.base import Adapter
    from purekv_cli.runtime.sampling import Generation
    from purekv_cli.store.shelf import Shelf

ROOM = "note: free memory has room for about {} of {} video tokens; choose with --max-frames or --max-pixels"
SHARE = "policy {} reads the question, so the video is prefilled once per question; --observe template shares it"


def answer(
    video: Path | Local,
    questions: Sequence[str],
    settings: Settings,
    schema: Schema | None = None,
    also: Sequence[Local] = (),
) -> None:
    """Answer the questions about the video (`also`: about all of them) as the settings say, and show it.

    With a schema stdout holds the answers' JSON alone, one a line.

    Raises:
        InvalidAnswer: at the end, when a question got no answer that is valid under the schema.
    """
    output = settings.output
    terminal = Terminal(output.quiet)
    if output.report and not output.dry_run:
        check_target(output.report)
    plan, model = planned(video, settings, terminal, schema.form if schema else "", also)
    if len(questions) > 1 and not shares_prefill(plan.method):
        terminal.note(SHARE.format(plan.method.policy))
    if output.dry_run:
        show_plan(plan, model, output, terminal)
        return
    write = (lambda line: None) if output.json else terminal.write
    checked = Checked(schema, write, lambda bad: terminal.show(bad.text)) if schema else None
    from purekv_cli.store.shelf import open_shelf

    shelf = open_shelf(plan, model, settings, terminal)
    run = answered(plan, model, questions, settings, terminal, shelf, checked)
    tell_ways(run.plan, run.answers, settings, terminal)
    record = build(run, model.facts(), [verdict.facts for verdict in checked.verdicts] if checked else ())
    if output.json:
        terminal.write(to_json(record))
    if output.stats:
        terminal.show(stats_table(run.answers))
    if output.report:
        write_report(record, output.report)
        terminal.note(f"report: {output.report}")
    if checked:
        checked.finish()


def planned(
    video: Path | Local, settings: Settings, terminal: Terminal, form: str = "", also: Sequence[Local] = ()
) -> tuple[Plan, ChosenModel]:
    """What will be read, and by which model; said on stderr. No weights are loaded and nothing is decoded.

    Args:
        form: what the questions say of the answer's form.
        also: further videos of the same prompt.

    Raises:
        UnreadableInput, UsageError, ModelUnavailable, OutOfResources: no such file, model, device, policy, range.
    """
    info, *others = (probed(each, settings) for each in (video, *also))
    model = choose_model(settings, terminal)
    plan = plan_for(info, model, model.room(), settings, terminal, form, others)
    if model.source.is_demo:
        terminal.note(NOTICE, style="yellow")
    return plan, model


def plan_for(
    info: VideoInfo,
    model: ChosenModel,
    room: int | None,
    settings: Settings,
    terminal: Terminal,
    form: str = "",
    also: Sequence[VideoInfo] = (),
) -> Plan:
    """The plan for a clip or several, told with its notes; `room`: of `ChosenModel.room`, before weights are there."""
    wanted = ((info, *also), model.geometry, model.names, settings, model.dtype.itemsize)
    stages = terminal.stages()
    plan = plan_together(*wanted, tell=lambda event: stages.update(event) if isinstance(event, Progress) else None)
    stages.clear()
    if room is not None and 0 < room < plan.video_tokens:
        terminal.note(ROOM.format(room, plan.video_tokens), style="yellow")
        plan = plan_together([each.info for each in (plan, *plan.also)], *wanted[1:], room)
    plan = with_text(plan, settings.subtitles, model.source.folder, form)
    terminal.note(plan_line(plan, model.describe()))
    for each in (plan, *plan.also):
        for note in (each.info.damage, each.sample.note, each.around.note):
            if note:
                name = f"{each.info.path.name}: " if plan.also else ""
                terminal.note(f"note: {name}{note}", style="yellow")
    return plan


def show_plan(plan: Plan, model: ChosenModel, output: OutputSettings, terminal: Terminal) -> None:
    """What --dry-run leaves on stdout."""
    if output.json:
        facts = {"video": video_facts(plan.info), **plan_facts(plan), "model": model.facts(), **also_facts(plan)}
        terminal.write(dumps({"schema_version": SCHEMA_VERSION, **facts}))


def answered(
    plan: Plan,
    model: ChosenModel,
    questions: Sequence[str],
    settings: Settings,
    terminal: Terminal,
    shelf: "Shelf | None" = None,
    checked: Checked | None = None,
) -> Run:
    """The plan carried out: answers go to stdout as they come, and are in the run with the engine's session.

    Args:
        shelf: where an earlier run may have kept the clip, and this one will; None: its frames are read in any case.
        checked: holds the answers against a schema, and writes them; None: they are written as they come.
    """
    output = settings.output
    screen = Screen(terminal, questions, silent=output.json or checked is not None, stream=not output.no_stream)
    try:
        run = Run(plan, shelf=shelf)
        if not run.recall():
            read_frames(run, screen, terminal)  # before the model is loaded: what cannot be read is said at once
        adapter = load(model, settings, screen, terminal)
        run.ask(adapter, questions, generation(settings), screen.show, checked.again if checked else None)
        run.keep()
    finally:
        screen.close()
    for given in run.answers:
        if said := outside(run.mentions(given), plan.origin, (plan.sample.start, plan.sample.end)):
            terminal.note(f"note: {said}", style="yellow")
    return run


def read_frames(run: Run, screen: "Screen", terminal: Terminal) -> None:
    """Decode the clip; damage that only decoding finds is said.

    Raises:
        UnreadableInput, OutOfResources: nothing of it can be decoded; no room for its frames.
    """
    damage = run.decode(screen.show).damage
    if damage and damage != run.plan.info.damage:
        screen.stages.clear()
        terminal.note(f"note: {damage}", style="yellow")
    for other, frames in zip(run.plan.also, run.others, strict=True):
        if frames.damage and frames.damage != other.info.damage:
            screen.stages.clear()
            terminal.note(f"note: {other.info.path.name}: {frames.damage}", style="yellow")


def load(model: ChosenModel, settings: Settings, screen: "Screen", terminal: Terminal) -> "Adapter":
    """The model, with the kernels that the settings allow; with -v, which way its vision tower goes."""
    allow(settings.method.kernels)
    adapter = model.load(settings.model.device, terminal, screen.show)
    if settings.output.verbose:
        from purekv_cli.runtime.vision import explain

        screen.stages.clear()
        known, why = explain(adapter.model)
        terminal.note(f"vision {'from the weights' if known else 'through transformers'}: {why}")
    return adapter


def generation(settings: Settings) -> "Generation":
    from purekv_cli.runtime.sampling import Generation

    wish = settings.model
    return Generation(wish.max_tokens, wish.temperature, wish.top_p, wish.seed)


def tell_ways(plan: Plan, answers: Sequence[Answer], settings: Settings, terminal: Terminal) -> None:
    """Which way prompt and answer went: with -v always, else only where something asked for was not done."""
    for stats in (answer.stats for answer in answers):
        if plan.method.propagate and not stats.propagated and stats.prefill_path:
            terminal.note(f"note: all tokens flowed through all layers ({stats.prefill_path})", style="yellow")
        if settings.output.verbose:
            terminal.note(f"prefill {stats.prefill_path or 'shared'}; tokens {stats.decode_path or 'none'}")


class Screen:
    """Shows events as they come: bars until an answer begins, then its text."""

    def __init__(self, terminal: Terminal, questions: Sequence[str], *, silent: bool, stream: bool) -> None:
        self.stages = terminal.stages()
        self._terminal, self._questions = terminal, questions
        self._silent, self._stream = silent, stream
        self._done = 0  # answers finished
        self._open = False  # an answer has begun on the current line

    def show(self, event: Event) -> None:
        if isinstance(event, Progress):
            if not self._open:
                self.stages.update(event)
        elif self._silent:
            if isinstance(event, Answer):
                self.stages.clear()
        elif isinstance(event, Text):
            if self._stream:
                self._begin()
                self._terminal.write(event.piece)
        else:
            self._finish(event)

    def close(self) -> None:
        """Leave a clean line behind, however the run ended."""
        self.stages.clear()
        if self._open:
            self._open = False
            self._terminal.write("\n")

    def _begin(self) -> None:
        if self._open:
            return
        self.stages.clear()
        if len(self._questions) > 1:
            self._terminal.write(f"{self._questions[self._done]}\t")
        self._open = True

    def _finish(self, answer: Answer) -> None:
        if answer.finish != "interrupted":
            self._begin()
            if not self._stream:
                self._terminal.write(answer.text)
        self.close()
        if answer.finish == "length":
            self._terminal.note("note: the answer reached --max-tokens and may be cut off", style="yellow")
        self._done += 1
