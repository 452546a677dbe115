"""explain.html: the page of `--report x.html` with what was kept put in, the contact sheet and a drawn timeline."""

import base64
from dataclasses import replace

from purekv_cli.explain import chart
from purekv_cli.explain.kept import Kept
from purekv_cli.explain.timeline import Timeline
from purekv_cli.report import html
from purekv_cli.report.page import Bar
from purekv_cli.report.record import Record
from purekv_cli.report.svg import SvgPen
from purekv_cli.report.units import clock

FEW = 12  # layers whose bars have room


def render(record: Record, kept: Kept, timeline: Timeline, whose: str, plan: str, contact: bytes) -> str:
    """The page, whole: it needs no other file and no network.

    Args:
        whose: which layers the pictures show.
        contact: the contact sheet, PNG.
    """
    seconds, peak = timeline.peak
    return html.render(
        replace(record, strip=()),  # the contact sheet shows the frames
        "explain/explain.html.j2",
        plan=plan,
        whose=whose,
        share=f"{kept.by_layer.mean():.1%}",
        entries=f"{int(kept.entries[..., kept.video].sum()):,}",
        of=f"{len(kept.video) * kept.counts.size:,}",
        grid=kept.grid,
        peak=f"{peak:.1%}",
        at=clock(seconds),
        layers=_layers(kept),
        dense="many" if kept.layers > FEW else "",
        contact=base64.b64encode(contact).decode(),
        timeline=chart.drawn(timeline, whose, SvgPen).markup(f"kept share per second, most at {clock(seconds)}"),
    )


def _layers(kept: Kept) -> list[Bar]:
    """A bar of a hundred per cent is as long as there is room."""
    return [
        Bar(f"layer {layer}", f"{share:.1%}", 100 * share, title=f"{count:.1f} entries a head, text included")
        for layer, (share, count) in enumerate(zip(kept.by_layer, kept.counts.mean(1), strict=True))
    ]
