"""The timeline for a terminal: rows of block characters, eight levels to a character."""

from purekv_cli.explain.timeline import Timeline
from purekv_cli.report.units import clock

NARROW, WIDTH, ROWS = 16, 60, 3
_BLOCKS = " ▁▂▃▄▅▆▇█"


def blocks(timeline: Timeline, rows: int = ROWS) -> list[str]:
    """Lines from top to bottom; the tallest column fills all rows, and the last line says what and when."""
    most = float(timeline.shares.max())
    levels = [round(float(share) / most * 8 * rows) if most else 0 for share in timeline.shares]
    lines = ["".join(_BLOCKS[min(8, max(0, level - 8 * row))] for level in levels) for row in reversed(range(rows))]
    start, end = clock(float(timeline.edges[0])), clock(float(timeline.edges[-1]))
    ends = f"{start} {end:>{max(1, len(levels) - len(start) - 1)}}"
    lines[0] += f"  {most:.0%}"
    lines[-1] += "  0%, kept share of the video"
    return [*lines, ends]
