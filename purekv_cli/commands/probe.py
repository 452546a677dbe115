"""`purekv probe`: what a file really holds, which frames `ask` would read, and what that costs a model."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from purekv_cli.commands.options import ClipFlags, JsonFlag, with_flags
from purekv_cli.commands.source import HELP, opened
from purekv_cli.report.record import SCHEMA_VERSION, dumps
from purekv_cli.report.units import clock, size
from purekv_cli.settings import settle
from purekv_cli.terminal import page

if TYPE_CHECKING:
    from purekv_cli.pipeline import Plan

BUDGET = 0.2


@with_flags
def probe(
    video: Annotated[str, typer.Argument(help=HELP, metavar="VIDEO")],
    *,
    clip: ClipFlags,
    flags: JsonFlag,
) -> None:
    """Show what a file holds, and the tokens and cache a model would need for it."""
    from purekv_cli.models.registry import ALIASES, KNOWN
    from purekv_cli.pipeline import make_plan
    from purekv_cli.report.build import video_facts
    from purekv_cli.video.probe import probe as look

    settings = settle(clip)
    plans = {}
    with opened(video, settings) as found:
        info = look(found)
        for name, geometry in KNOWN.items():
            plans[name] = make_plan(info, geometry, [ALIASES[name]], settings)
            info = plans[name].info  # with its scenes, if they were looked for
    facts = video_facts(info)
    needs = [_needs(name, plan) for name, plan in plans.items()]
    if flags.json:
        print(dumps({"schema_version": SCHEMA_VERSION, "video": facts, "models": needs}), end="")
        return
    console = page()
    console.print(_facts_table(facts))
    console.print()
    console.print(_needs_table(needs))


def _needs(name: str, plan: "Plan") -> dict[str, Any]:
    full, _ = plan.kv_bytes
    return {
        "model": name,
        "frames": len(plan.sample.times),
        "seconds_per_frame": plan.sample.seconds_per_frame,
        "height": plan.size[0],
        "width": plan.size[1],
        "video_tokens": plan.video_tokens,
        "kv_bytes_full": full,
        "kv_bytes_kept": round(full * BUDGET),
        "note": plan.sample.note,
    }


def _facts_table(facts: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    stated = facts["stated_duration"]
    claims = f" (the header claims {clock(stated)})" if stated and abs(stated - facts["duration"]) > 0.25 else ""
    picture = f"{facts['width']}x{facts['height']}" + (f", rotated by {facts['rotation']}" if facts["rotation"] else "")
    rate = f"{facts['fps']:.3f} frames/s" + (" on average, variable" if facts["variable_frame_rate"] else "")
    keyframes = f"{facts['keyframes']}, one every {facts['keyframe_distance']:.2f} s"
    rows = (
        ("file", facts["path"]),
        ("size", size(facts["size_bytes"])),
        ("container", facts["container"]),
        ("codec", f"{facts['codec']}, {facts['pixel_format']}, {facts['bit_depth']} bit"),
        ("picture", picture),
        ("duration", f"{clock(facts['duration'])}{claims}"),
        ("frames", f"{facts['frames']}, {rate}"),
        ("keyframes", keyframes),
        ("audio", "yes (heard with --audio, by models that can)" if facts["audio"] else "no"),
        ("damage", facts["damage"] or "none found"),
    )
    for label, value in rows:
        table.add_row(label, value)
    return table


def _needs_table(needs: list[dict[str, Any]]) -> Table:
    table = Table(
        "model", "frames", "every", "size", "tokens", "KV full", f"KV at {BUDGET:.0%}", box=None, padding=(0, 2, 0, 0)
    )
    for need in needs:
        table.add_row(
            need["model"],
            str(need["frames"]),
            f"{need['seconds_per_frame']:.3g} s",
            f"{need['width']}x{need['height']}",
            str(need["video_tokens"]),
            size(need["kv_bytes_full"]),
            size(need["kv_bytes_kept"]),
        )
    return table
