"""The timeline as a picture: the share of the video's entries that stayed, second by second."""

from pathlib import Path

from purekv_cli.bench.pen import COLOURS, GRID, INK, SOFT, Kind, Pen
from purekv_cli.explain.timeline import Timeline
from purekv_cli.report.units import clock

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _RIGHT = 960, 260, 56, 44, 34, 16
_TOPS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)  # where the axis may end
_MARKS = 8  # times written below


def draw(timeline: Timeline, whose: str, path: Path) -> None:
    """Write the picture; `whose` says which layers are meant."""
    drawn(timeline, whose, Pen).save(path)


def drawn(timeline: Timeline, whose: str, kind: type[Kind]) -> Kind:
    """The picture."""
    pen = kind(_WIDTH, _HEIGHT)
    top = next(most for most in _TOPS if most >= timeline.shares.max() - 1e-9)
    edges, high, wide = timeline.edges, _HEIGHT - _TOP - _BOTTOM, _WIDTH - _LEFT - _RIGHT
    across = wide / (edges[-1] - edges[0])

    def place(seconds: float, share: float) -> tuple[float, float]:
        return _LEFT + (seconds - float(edges[0])) * float(across), _TOP + high * (1 - share / top)

    pen.text((16, 12), f"Kept share of the video's entries per second, {whose}", 16, INK)
    for part in range(5):
        share = top * part / 4
        pen.line([place(float(edges[0]), share), place(float(edges[-1]), share)], GRID, 1)
        pen.text((_LEFT - 8, place(0, share)[1]), f"{100 * share:.3g}%", 13, SOFT, "rm")
    gap = 1 if wide / len(timeline.shares) > 4 else 0
    for start, end, share in zip(edges[:-1], edges[1:], timeline.shares, strict=True):
        (left, y), (right, floor) = place(float(start), float(share)), place(float(end), 0)
        if y < floor:
            pen.box((left, y), (max(left, right - gap), floor), COLOURS[1])
    for part in range(_MARKS + 1):
        seconds = float(edges[0] + (edges[-1] - edges[0]) * part / _MARKS)
        pen.text((place(seconds, 0)[0], _HEIGHT - _BOTTOM + 8), clock(seconds), 13, SOFT, "ra" if part else "la")
    return pen
