"""The order of `purekv explain`: what can be wrong is found first, then the answer as from `ask`, then pictures."""

from pathlib import Path
from typing import TYPE_CHECKING

from purekv_cli.commands.answering import answered, planned, show_plan
from purekv_cli.errors import UsageError
from purekv_cli.explain import chart, page
from purekv_cli.explain.blocks import NARROW, WIDTH, blocks
from purekv_cli.explain.folder import check_folder, moved_into
from purekv_cli.explain.kept import Kept, read_kept
from purekv_cli.explain.overlay import write_overlay
from purekv_cli.explain.shade import seen
from purekv_cli.explain.sheet import sheet
from purekv_cli.explain.timeline import in_bins, per_second
from purekv_cli.pipeline import Run
from purekv_cli.report.build import build, plan_line
from purekv_cli.report.record import Record, to_json
from purekv_cli.report.stats import stats_table
from purekv_cli.report.write import FORMATS, write_report
from purekv_cli.settings import Settings
from purekv_cli.targets import check_target
from purekv_cli.terminal import Terminal
from purekv_cli.video.source import Local

if TYPE_CHECKING:
    from purekv_cli.commands.explain import ExplainFlags


def run(video: Local, question: str, flags: "ExplainFlags", settings: Settings) -> None:
    """Answer the question, and write what the cache kept for it into the folder."""
    folder = flags.output or Path(f"{video.stem}-explained")
    output, terminal = settings.output, Terminal(settings.output.quiet)
    if not output.dry_run:
        check_folder(folder)
        check_target(flags.overlay, (".mp4",))
        check_target(output.report, FORMATS)
    plan, model = planned(video, settings, terminal)
    layers = model.geometry.layers
    if flags.layer is not None and not 0 <= flags.layer < layers:
        raise UsageError(f"there is no layer {flags.layer}", f"The model has layers 0 to {layers - 1}.")
    if output.dry_run:
        show_plan(plan, model, output, terminal)
        return
    done = answered(plan, model, [question], settings, terminal)
    assert done.session is not None
    assert done.frames is not None
    kept = read_kept(done.session, done.frames, done.answers[0].stats.prompt_tokens)
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


def _write(folder: Path, flags: "ExplainFlags", done: Run, record: Record, kept: Kept, plan: str) -> None:
    assert done.frames is not None
    pixels, layer = seen(done.frames.pixels, done.plan.geometry), flags.layer
    whose = "all layers" if layer is None else f"layer {layer}"
    timeline = per_second(kept, layer)
    with moved_into(folder) as aside:
        kept.save(aside / "kept.npz")
        sheet(pixels, kept, layer).save(aside / "contact.png", optimize=True)
        chart.draw(timeline, whose, aside / "timeline.png")
        text = page.render(record, kept, timeline, whose, plan, (aside / "contact.png").read_bytes())
        (aside / "explain.html").write_text(text, encoding="utf-8")
    if flags.overlay:
        with moved_into(flags.overlay.parent) as aside:
            write_overlay(pixels, kept, aside / flags.overlay.name, layer)
