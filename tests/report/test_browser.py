"""The reports of `ask`, `bench` and `eval` in a real browser: drawn, fit for a phone, light and dark, offline."""

import json
from pathlib import Path

import pytest

from purekv_cli.app import main
from purekv_cli.bench.page import render
from purekv_cli.eval.arms import Arm
from purekv_cli.eval.page import render as render_eval
from purekv_cli.eval.summary import summarise
from tests.bench.found import row
from tests.bench.test_plot_stages import walked
from tests.browser import DESKTOP, PHONE, Look, look, needs_browser
from tests.clips import Recipe, make
from tests.eval.graded import answers, items

pytestmark = needs_browser
SIGHTS = pytest.mark.parametrize(
    ("width", "dark"), [(DESKTOP, False), (PHONE, True)], ids=["desktop, light", "phone, dark"]
)


def readable(seen: Look, width: int, dark: bool) -> None:
    """It fits, fetches nothing, and ink stands out from paper."""
    assert seen.found["needed"] == seen.found["room"] == width
    assert seen.found["fetched"] == []
    paper, ink = (
        [int(part) for part in seen.found["colours"][name].strip("rgb()").split(",")] for name in ("paper", "ink")
    )
    assert (sum(paper) < sum(ink)) == dark
    assert abs(sum(paper) - sum(ink)) > 450
    assert (seen.pixels[2, 2].mean() < 80) == dark


@SIGHTS
def test_the_report_of_ask(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, bundle: Path, width: int, dark: bool
) -> None:
    clip, report = make(tmp_path, Recipe()).path, tmp_path / "report.html"
    asked = ["ask", clip, "what?", "-q", "where, " + "and when, " * 20 + "was it?", "-m", bundle, "--budget", "0.5"]
    with pytest.raises(SystemExit):
        main([*map(str, asked), "--max-tokens", "4", "--device", "cpu", "--json", "--report", str(report)])
    stats = json.loads(capfd.readouterr().out)["answers"][0]["stats"]
    seen = look(report, tmp_path / "browser", width, dark=dark)
    readable(seen, width, dark)
    assert len(seen.found["pictures"]) == 8
    assert all(seen.found["pictures"])
    memory = {label: px for label, px, _ in seen.bars("Memory of the KV cache")}
    assert memory["kept"] / memory["full"] == pytest.approx(stats["kv_bytes_kept"] / stats["kv_bytes_full"], abs=0.02)
    assert [label for label, *_ in seen.bars("Time")] == [
        "video decoding",
        "vision",
        "prefill",
        "of it scoring",
        "answering",
    ]
    assert "torch" in seen.found["text"]


@SIGHTS
def test_the_report_of_bench(tmp_path: Path, width: int, dark: bool) -> None:
    found, report = walked(), tmp_path / "report.html"
    found.rows += [row("stock", [(1.2, 1.3, 0.04)], 400, 400, "32k"), row("whole", [(0.3, 0.4, 0.01)], 80, 100, "32k")]
    report.write_text(render(found), encoding="utf-8")
    seen = look(report, tmp_path / "browser", width, dark=dark)
    readable(seen, width, dark)
    (stock, longest, _), (pruned, shorter, told) = seen.bars("Prefill of 32,000 tokens")
    assert (stock, pruned, told) == ("dense, transformers", "purekv 0.2", "300 ms, 4.00x")
    assert shorter / longest == pytest.approx(1 / 4, abs=0.01)
    lengths, stages = seen.found["drawings"]
    assert lengths["lines"] > 6
    assert {"8,000", "32,000", "purekv 0.2"} <= set(lengths["labels"])
    assert len(stages["boxes"]) == 2 * 5 + 5  # two rows of five stages, and the legend
    assert "5.00x" in seen.found["text"]


@SIGHTS
def test_the_report_of_eval(tmp_path: Path, width: int, dark: bool) -> None:
    asked, report = items(8, 4), tmp_path / "report.html"
    rows = list(answers(asked, Arm("dense", "1", "unknown")))
    for policy, wrong in (("purekv", 16), ("random", 4)):
        rows += [row for budget in ("0.2", "0.1") for row in answers(asked, Arm(policy, budget, "unknown"), wrong)]
    report.write_text(render_eval({"model": "demo"}, summarise(rows)), encoding="utf-8")
    seen = look(report, tmp_path / "browser", width, dark=dark)
    readable(seen, width, dark)
    (drawing,) = seen.found["drawings"]
    assert {"medium, question unknown", "purekv", "random", "dense"} <= set(drawing["labels"])
    assert "93.8 (79.9 to 98.3)" in seen.found["text"]  # 30 of 32, Wilson
