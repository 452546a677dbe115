"""`purekv batch` from its settings to its exit code: find, check, continue, work, sum up."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from purekv_cli.batch.collect import Wanted, collect, read_questions, shard_of
from purekv_cli.batch.driver import Driver, Limits
from purekv_cli.batch.export import Format, export
from purekv_cli.batch.identity import check_same, identity
from purekv_cli.batch.job import Item, jobs_of
from purekv_cli.batch.ledger import FAILED, Ledger
from purekv_cli.batch.loop import Spec
from purekv_cli.batch.messages import Pool
from purekv_cli.batch.progress import Screen, Tally
from purekv_cli.batch.stream import Stream
from purekv_cli.commands.model import ChosenModel, choose_model
from purekv_cli.demo import NOTICE
from purekv_cli.errors import BatchFailures, Interrupted, UsageError
from purekv_cli.models import registry
from purekv_cli.pipeline import make_plan, shares_prefill
from purekv_cli.report.units import clock
from purekv_cli.settings import Settings
from purekv_cli.terminal import Terminal
from purekv_cli.video.info import Scene, VideoInfo

NAMED = 20  # failures listed at the end
TOGETHER = 4  # answers that a GPU generates at once


@dataclass(frozen=True, slots=True)
class Request:
    """What `batch` was told beside the settings of every verb."""

    paths: Sequence[str]
    questions: Sequence[str]
    questions_file: Path | None = None
    output: str | None = None  # a path, or "-" for stdout
    probing: bool = False
    retry_failed: bool = False
    fail_fast: bool = False
    timeout: float | None = None  # s a video
    shard: str | None = None
    workers: int | None = None
    cores: int | None = None  # CPU cores of a worker
    decoders: int | None = None
    ray: str | None = None
    together: int | None = None  # answers that a GPU generates at once
    form: Format | None = None


def run(request: Request, settings: Settings) -> None:
    """Answer everything that is not in the output yet.

    Raises:
        BatchFailures: finished, but not for every item. Interrupted: stopped by Ctrl-C. Others: nothing was done.
    """
    terminal = Terminal(settings.output.quiet)
    if not request.output:
        raise UsageError("there is no output file", "Name it with -o out.jsonl; -o - writes to stdout.")
    if request.form and request.output == "-":
        raise UsageError("--format needs an output file", "Name it with -o out.jsonl.")
    wanted = _wanted(request)
    for note in wanted.notes:
        terminal.note(f"note: {note}", style="yellow")
    if settings.subtitles.subs not in (None, "auto") and len({item.video for item in wanted.items}) > 1:
        raise UsageError("one subtitle file cannot fit several videos", "Use --subs auto: each gets its own.")
    model = choose_model(settings, terminal)
    _check(settings, model)
    if settings.output.dry_run:
        jobs = jobs_of(wanted.items)
        terminal.note(f"{len(wanted.items)} questions about {len(jobs)} clips | {model.describe()}")
        return
    ledger = Stream(terminal) if request.output == "-" else Ledger(Path(request.output))
    try:
        _continue(ledger, identity(settings, model.source), terminal)
        done = {key for key, status in ledger.status.items() if status != FAILED or not request.retry_failed}
        todo = [item for item in wanted.items if item.key not in done]
        if len(todo) < len(wanted.items):
            terminal.note(f"{len(wanted.items) - len(todo)} of {len(wanted.items)} questions are done already")
        if todo:
            _work(request, settings, model, todo, ledger, terminal)
        if request.form:
            terminal.note(f"table: {export(ledger.path, request.form)}")
    finally:
        ledger.close()
    _sum_up(wanted, ledger)


def _wanted(request: Request) -> Wanted:
    questions = [question.strip() for question in request.questions if question.strip()]
    if request.questions_file:
        questions += read_questions(request.questions_file)
    listed = (line.decode("utf-8", "surrogateescape") for line in sys.stdin.buffer)
    wanted = collect(request.paths, questions, listed, probing=request.probing)
    if not wanted.items:
        raise UsageError("there is nothing to ask about", "The list is empty.")
    return replace(wanted, items=shard_of(wanted.items, request.shard)) if request.shard else wanted


def _check(settings: Settings, model: ChosenModel) -> None:
    """Find wishes that no video could fulfil before the first one is read: a plan for an imaginary clip."""
    from purekv_cli.runtime.sampling import Generation

    wish = settings.model
    Generation(wish.max_tokens, wish.temperature, wish.top_p, wish.seed)
    times = tuple(float(second) for second in range(60))
    clip = VideoInfo(
        Path("clip.mp4"), "video", "mp4", "h264", "yuv420p", 8, 640, 360, 0, 60.0, None, times, times, 0, False,
        time_base=Fraction(1, 1000), scenes=(Scene(0.0, 59.0, 60.0, 0.0),),
    )  # fmt: skip
    open_ended = replace(settings, clip=replace(settings.clip, start=None, end=None))
    shares_prefill(make_plan(clip, model.geometry, model.names, open_ended, model.dtype.itemsize).method)


def _continue(ledger: "Ledger | Stream", now: dict[str, object], terminal: Terminal) -> None:
    if ledger.settings is None:
        ledger.begin(now)
        return
    check_same(ledger.settings, now, str(ledger.path))
    if ledger.unreadable:
        terminal.note(f"note: {ledger.unreadable} unreadable lines of {ledger.path} are passed over", style="yellow")


def _work(
    request: Request,
    settings: Settings,
    model: ChosenModel,
    todo: Sequence[Item],
    ledger: "Ledger | Stream",
    terminal: Terminal,
) -> None:
    """Answer the items, or those before the first failure where one is enough."""
    source = registry.fetch(model.source)  # once, before workers ask for it
    if source.is_demo:
        terminal.note(NOTICE, style="yellow")
    name = source.repo or (source.name if source.is_demo else str(Path(source.folder or source.name).resolve()))
    settled = replace(settings, model=replace(settings.model, model=name))
    jobs = jobs_of(todo)
    pool, limits = make_pool(request, settled, model)
    tally = Tally(len(todo), len(jobs))
    screen = Screen(terminal, tally)
    driver = Driver(jobs, pool, limits, ledger.append, screen.said)
    try:
        with _stoppable(driver, screen.note):
            driver.run()
    except KeyboardInterrupt:
        raise Interrupted("stopped at once", _again(ledger)) from None
    finally:
        screen.close()
        pool.close()
    terminal.note(
        f"{tally.answered} answered, {tally.failed} failed in {clock(tally.seconds)} | "
        f"{tally.videos_done} videos, {tally.rates()}"
    )
    if driver.stopping:
        raise Interrupted("stopped after what was in hand", _again(ledger))


def make_pool(request: Request, settings: Settings, model: ChosenModel) -> tuple[Pool, Limits]:
    """The workers, and what they may be given."""
    from purekv_cli.batch.answerer import VideoSpec
    from purekv_cli.batch.places import decoders_for, environments

    wished = TOGETHER if request.together is None else request.together

    def spec(workers: int, together: int) -> Spec:
        decoders = decoders_for(workers) if request.decoders is None else request.decoders
        return VideoSpec(settings, request.timeout, decoders, together)

    def limits(decoders: int, together: int) -> Limits:
        return Limits(decoders, request.timeout, request.fail_fast, together)

    if request.ray:
        from purekv_cli.batch.ray_pool import RayPool

        made = spec(1, wished)
        pool = RayPool(made, request.ray, request.workers, request.cores)
        return pool, limits(made.decoders, wished if pool.on_gpus else 1)
    from purekv_cli.batch.local import LocalPool

    places = environments(model, settings.model.device, request.workers, request.cores)
    together = wished if model.device.type == "cuda" else 1
    made = spec(len(places), together)
    return LocalPool(made, places), limits(made.decoders, together)


@contextmanager
def _stoppable(driver: Driver, note: Callable[[str], None]) -> Iterator[None]:
    """Ctrl-C (or SIGTERM) once: finish what is in hand; twice: stop at once."""

    def stop(*_: object) -> None:
        driver.stopping += 1
        if driver.stopping == 1:
            note("stopping after what is in hand; Ctrl-C again stops at once")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _again(ledger: "Ledger | Stream") -> str:
    if isinstance(ledger, Stream):
        return "What was answered has been printed."
    return f"Everything answered is in {ledger.path}; the same command goes on from there."


def _sum_up(wanted: Wanted, ledger: "Ledger | Stream") -> None:
    failed = [item for item in wanted.items if ledger.status.get(item.key) == FAILED]
    missing = sum(item.key not in ledger.status for item in wanted.items)
    if not failed and not missing:
        return
    names = list(dict.fromkeys(Path(item.video).name for item in failed))
    shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    left = f"; {missing} were not asked any more" if missing else ""
    where = "above" if isinstance(ledger, Stream) else f"in {ledger.path}"
    raise BatchFailures(
        f"{len(failed)} of {len(wanted.items)} questions failed: {shown}{left}",
        f"Each has its reason {where}; the same command with --retry-failed asks them again.",
    )
