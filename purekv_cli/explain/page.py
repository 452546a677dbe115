"""explain.html: the report of `--report x.html` with what was kept put in, pictures and all.

The report's own page is rendered first and this one's style and section are set into it, so both look alike and say the
same numbers. What was asked and answered is escaped there, so the marks below occur once, where the template has them.
"""

import base64
from dataclasses import dataclass, replace
from importlib.resources import files

from jinja2 import Environment

from purekv_cli.explain.kept import Kept
from purekv_cli.explain.timeline import Timeline
from purekv_cli.report import html
from purekv_cli.report.record import Record
from purekv_cli.report.units import clock

_STYLE_ENDS, _BEFORE = "</style>", "  <h2>Memory of the KV cache</h2>"


@dataclass(frozen=True, slots=True)
class Pictures:
    """PNG files."""

    contact: bytes
    timeline: bytes


def render(record: Record, kept: Kept, timeline: Timeline, whose: str, plan: str, pictures: Pictures) -> str:
    """The page, whole: it needs no other file and no network."""
    seconds, peak = timeline.peak
    section = files("purekv_cli.explain").joinpath("section.html.j2").read_text(encoding="utf-8")
    style, _, body = (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
        .from_string(section)
        .render(
            plan=plan,
            whose=whose,
            share=f"{kept.by_layer.mean():.1%}",
            entries=f"{int(kept.entries[..., kept.video].sum()):,}",
            of=f"{len(kept.video) * kept.counts.size:,}",
            grid=kept.grid,
            peak=f"{peak:.1%}",
            at=clock(seconds),
            layers=list(enumerate(zip(kept.by_layer * 100, kept.counts.mean(1), strict=True))),
            contact=base64.b64encode(pictures.contact).decode(),
            timeline=base64.b64encode(pictures.timeline).decode(),
        )
        .partition("<!-- body -->\n")
    )
    page = html.render(replace(record, strip=()))  # the contact sheet shows the frames
    return page.replace(_STYLE_ENDS, style + _STYLE_ENDS, 1).replace(_BEFORE, body + _BEFORE, 1)
