"""The order of `purekv explain`: what can be wrong is found first, then the answer as from `ask`, then pictures."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from purekv_cli.commands.answering import ROOM, Screen
from purekv_cli.commands.model import ChosenModel, choose_model
from purekv_cli.demo import NOTICE
from purekv_cli.errors import UsageError
from purekv_cli.explain import chart, page
from purekv_cli.explain.blocks import NARROW, WIDTH, blocks
from purekv_cli.explain.folder import check_folder, moved_into
from purekv_cli.explain.kept import Kept, read_kept
from purekv_cli.explain.overlay import write_overlay
from purekv_cli.explain.shade import seen
from purekv_cli.explain.sheet import sheet
from purekv_cli.explain.timeline import in_bins, per_second
from purekv_cli.kernels import allow
from purekv_cli.pipeline import Plan, Run, make_plan
from purekv_cli.report.build import build, plan_facts, plan_line, video_facts
from purekv_cli.report.record import SCHEMA_VERSION, Record, dumps, to_json
from purekv_cli.report.stats import stats_table
from purekv_cli.report.write import FORMATS, write_report
from purekv_cli.runtime.events import Answer
from purekv_cli.settings import Settings
from purekv_cli.targets import check_target
from purekv_cli.terminal import Terminal
from purekv_cli.video.probe import probe

if TYPE_CHECKING:
    from purekv_cli.commands.explain import ExplainFlags


def run(video: Path, question: str, flags: "ExplainFlags", settings: Settings) -> None:
    """Answer the question, and write what the cache kept for it into the folder."""
    folder = flags.output or Path(f"{video.stem}-explained")
    output, terminal = settings.output, Terminal(settings.output.quiet)
    if not output.dry_run:
        check_folder(folder)
        check_target(flags.overlay, (".mp4",))
        check_target(output.report, FORMATS)
    plan, model = _planned(video, settings, terminal)
    layers = model.geometry.layers
    if flags.layer is not None and not 0 <= flags.layer < layers:
        raise UsageError(f"there is no layer {flags.layer}", f"The model has layers 0 to {layers - 1}.")
    if output.dry_run:
        if output.json:
            facts = {"video": video_facts(plan.info), **plan_facts(plan), "model": model.facts()}
            terminal.write(dumps({"schema_version": SCHEMA_VERSION, **facts}))
        return
    done, kept = _answered(plan, model, question, settings, terminal)
    record = build(done, model.facts())
    if output.json:
        terminal.write(to_json(record))
    if output.stats:
        terminal.show(stats_table(done.answers))
    _write(folder, flags, done, record, kept, plan_line(plan, model.describe()))
    if output.report:
        write_report(record, output.report)
    seconds = round(kept.end - float(kept.times[0]))
    for line in blocks(in_bins(kept, min(WIDTH, max(NARROW, seconds)), flags.layer)):
        terminal.note(line, style="default")
    for written in (folder / "explain.html", flags.overlay, output.report):
        if written:
            terminal.note(f"written: {written}")


def _planned(video: Path, settings: Settings, terminal: Terminal) -> tuple[Plan, ChosenModel]:
    """As `ask` plans, with the same notes."""
    info = probe(video)
    model = choose_model(settings, terminal)
    plan = make_plan(info, model.geometry, model.names, settings, model.dtype.itemsize)
    room = model.room()
    if room is not None and 0 < room < plan.video_tokens:
        terminal.note(ROOM.format(room, plan.video_tokens), style="yellow")
        plan = make_plan(info, model.geometry, model.names, settings, model.dtype.itemsize, room)
    terminal.note(plan_line(plan, model.describe()))
    for note in (info.damage, plan.sample.note):
        if note:
            terminal.note(f"note: {note}", style="yellow")
    if model.source.is_demo:
        terminal.note(NOTICE, style="yellow")
    return plan, model


def _answered(
    plan: Plan, model: ChosenModel, question: str, settings: Settings, terminal: Terminal
) -> tuple[Run, Kept]:
    """As `pipeline.Run.ask` answers one question, with the session at hand afterwards."""
    from purekv_cli.runtime.engine import Engine
    from purekv_cli.runtime.sampling import Generation
    from purekv_cli.runtime.session import Session

    allow(settings.method.kernels)
    wish, output, run = settings.model, settings.output, Run(plan)
    screen = Screen(terminal, [question], silent=output.json, stream=not output.no_stream)
    try:
        frames = run.decode(screen.show)
        if frames.damage and frames.damage != plan.info.damage:
            screen.stages.clear()
            terminal.note(f"note: {frames.damage}", style="yellow")
        adapter = model.load(wish.device, terminal, screen.show)
        began = time.perf_counter()
        inputs = adapter.prepare(frames, question)
        spent = {"decode_seconds": frames.decode_seconds, "prepare_seconds": time.perf_counter() - began}
        session = Session(Engine(adapter, plan.method), inputs, **spent, once=True)
        for event in session.first(question, Generation(wish.max_tokens, wish.temperature, wish.top_p, wish.seed)):
            if isinstance(event, Answer):
                run.answers.append(event)
            screen.show(event)
    finally:
        screen.close()
    return run, read_kept(session, frames, run.answers[0].stats.prompt_tokens)


def _write(folder: Path, flags: "ExplainFlags", done: Run, record: Record, kept: Kept, plan: str) -> None:
    assert done.frames is not None
    pixels, layer = seen(done.frames.pixels, done.plan.geometry), flags.layer
    whose = "all layers" if layer is None else f"layer {layer}"
    timeline = per_second(kept, layer)
    with moved_into(folder) as aside:
        kept.save(aside / "kept.npz")
        sheet(pixels, kept, layer).save(aside / "contact.png", optimize=True)
        chart.draw(timeline, whose, aside / "timeline.png")
        pictures = page.Pictures((aside / "contact.png").read_bytes(), (aside / "timeline.png").read_bytes())
        text = page.render(record, kept, timeline, whose, plan, pictures)
        (aside / "explain.html").write_text(text, encoding="utf-8")
    if flags.overlay:
        with moved_into(flags.overlay.parent) as aside:
            write_overlay(pixels, kept, aside / flags.overlay.name, layer)
