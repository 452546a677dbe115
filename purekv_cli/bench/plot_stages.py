"""A picture of the way from the file to the first token: one bar a row, its stages side by side."""

from pathlib import Path

from purekv_cli.bench.pen import COLOURS, INK, SOFT, Kind, Pen, text_width
from purekv_cli.bench.result import Result, Walk
from purekv_cli.report.units import span

STAGES = {
    "decode": "video decoding (ours sees meanwhile, on a GPU)",
    "prepare": "preprocessing",
    "vision": "vision tower",
    "prefill": "prefill of the language model",
    "rest": "first token",
}
HEADER = 100  # px of title
_WIDTH, _LEFT, _RIGHT, _ROW, _LEGEND = 1360, 300, 130, 58, 64


def draw(result: Result, path: Path) -> bool:
    """Write the picture; False when nothing was measured."""
    if pen := drawn(result, Pen):
        pen.save(path)
    return pen is not None


def drawn(result: Result, kind: type[Kind]) -> Kind | None:
    """The picture; None when nothing was measured. What a red gate covers is left out."""
    walks = [w for w in result.walks if w.runs and not (result.red(w.arm.kind) or _tower_red(result, w))]
    if not walks:
        return None
    pen = kind(_WIDTH, HEADER + _ROW * len(walks) + _LEGEND)
    pen.text((42, 18), f"From a file to the first token: {result.facts.get('model', '')}", 21, INK)
    where = f"{result.facts.get('device', '')}, {result.facts.get('dtype', '')}, {walks[0].tokens:,} prompt tokens"
    pen.text((42, 46), where, 14, SOFT)
    scale = (_WIDTH - _LEFT - _RIGHT) / max(walk.stage("first_token").mean for walk in walks)
    for at, walk in enumerate(walks):
        middle, left = HEADER + (at + 0.5) * _ROW, float(_LEFT)
        pen.text((_LEFT - 14, middle), walk.arm.name, 14, INK, anchor="rm")
        for colour, seconds in zip(COLOURS, shares(walk).values(), strict=False):
            pen.box((left, middle - 18), (left + seconds * scale, middle + 18), colour)
            left += seconds * scale
        pen.text((left + 10, middle), span(walk.stage("first_token").mean), 14, INK, anchor="lm")
    left, top = 42.0, HEADER + _ROW * len(walks) + 30
    for colour, name in zip(COLOURS, STAGES.values(), strict=False):
        pen.box((left, top - 7), (left + 14, top + 7), colour)
        pen.text((left + 22, top), name, 14, INK, anchor="lm")
        left += 46 + text_width(name, 14)
    return pen


def shares(walk: Walk) -> dict[str, float]:
    """Mean seconds of every stage; they add up to the whole wait."""
    named = {name: walk.stage(name).mean for name in STAGES if name != "rest"}
    return named | {"rest": max(0.0, walk.stage("first_token").mean - sum(named.values()))}


def _tower_red(result: Result, walk: Walk) -> bool:
    return bool(result.red("file")) and not walk.arm.is_stock
