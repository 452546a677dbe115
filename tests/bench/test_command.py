"""`purekv bench` from the command line to its files, on the CPU with a tiny model. Nothing asserts a time."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from purekv_cli.app import main
from purekv_cli.bench import engines, method_checks
from purekv_cli.bench.clip import write
from purekv_cli.models import registry
from tests.test_app import HEAVY, imported_by

SMALL = (
    "bench",
    "--shape",
    "tiny",
    "--device",
    "cpu",
    "--dtype",
    "float32",
    "--grid",
    "6x8",
    "--runs",
    "1",
    "--warmup",
    "0",
)
SMALL += ("--max-tokens", "3", "--propagate", "2:0.3", "--budget", "0.5")


def run(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def test_a_bench_of_two_lengths_with_all_its_files(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("found.json", "found.md", "found.png", "found.html")]
    flags = ("--export-json", "--export-markdown", "--plot", "--report")
    named = [x for pair in zip(flags, files, strict=True) for x in pair]
    code, out, err = run(capfd, *SMALL, "--tokens", "256,512", "--policy", "purekv,random", *named)
    assert code == 0, out + err
    assert "Prefill of the language model" in out
    assert "written" not in out
    assert "written" in err
    record = json.loads(files[0].read_text())
    assert record["green"]
    assert [row["length"] for row in record["rows"]] == ["256"] * 6 + ["512"] * 6
    stock, dense, pruned, flowing = record["rows"][6:10]
    for row in (stock, dense, pruned, flowing):
        assert row["failure"] is None
        assert len(row["runs"]) == 1
        assert row["runs"][0]["first_token"] >= row["runs"][0]["prefill"] > 0
    full = stock["tokens"] * 2 * 6 * 2 * 16 * 4
    assert stock["costs"]["kv_kept"] == full
    assert dense["costs"]["kv_kept"] == full
    assert pruned["costs"]["kv_kept"] == stock["tokens"] // 2 * 2 * 6 * 2 * 16 * 4
    assert pruned["costs"]["kv_kept"] < pruned["costs"]["kv_peak"] < full
    assert stock["speed_ups"]["prefill"] == 1
    assert flowing["costs"]["flops"] < pruned["costs"]["flops"] < stock["costs"]["flops"]
    assert "| 512 | random 0.5 |" in files[1].read_text()
    with Image.open(files[2]) as picture:
        assert picture.format == "PNG"
    assert "<h2>Prefill of 528 tokens</h2>" in files[3].read_text()


def test_json_is_all_of_stdout_and_quiet_leaves_stderr_empty(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, *SMALL, "--tokens", "256", "--json", "--quiet")
    assert (code, err) == (0, "")
    assert json.loads(out)["schema_version"] == 1


def test_a_broken_kernel_silences_the_ratios_and_fails_the_run(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from purekv_cli.kernels import compact

    real = compact.compact
    monkeypatch.setattr(compact, "compact", lambda *a, **k: tuple(1.5 * part for part in real(*a, **k)))
    code, out, _ = run(capfd, *SMALL, "--tokens", "256")
    assert code == 1
    pruned = next(line for line in out.splitlines() if " purekv 0.5 " in line)
    assert "gate: kernel compact" in pruned
    assert "x" not in pruned.replace("kernel", "").replace("  ", "")
    assert "RED" in out


def test_memory_that_runs_out_is_said_in_its_row_and_the_others_go_on(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: engines.Stock, problem: Any, *_: Any) -> None:
        if problem.label == "512":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return real(self, problem, *_)

    real: Any = engines.Stock.prefill
    monkeypatch.setattr(engines.Stock, "prefill", full)
    code, out, _ = run(capfd, *SMALL, "--tokens", "512,256", "--json", "--quiet")
    rows = {(row["length"], row["kind"]): row for row in json.loads(out)["rows"]}
    assert code == 0
    assert rows["512", "stock"]["failure"] == "out of memory"
    assert rows["512", "whole"]["runs"]
    assert rows["512", "whole"]["speed_ups"] is None
    assert rows["256", "whole"]["speed_ups"]


def test_ctrl_c_prints_what_is_measured(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = engines.Stock.prefill

    def interrupted(self: engines.Stock, problem: Any, *rest: Any) -> Any:
        if problem.label == "512":
            raise KeyboardInterrupt
        return real(self, problem, *rest)

    monkeypatch.setattr(engines.Stock, "prefill", interrupted)
    code, out, _ = run(capfd, *SMALL, "--tokens", "256,512", "--json")
    record = json.loads(out)
    assert code == 130
    assert record["interrupted"]
    assert record["rows"][0]["runs"]
    assert not record["rows"][-1]["runs"]


def test_a_budget_that_cannot_hold_the_text_fails_its_rows_only(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [*SMALL, "--tokens", "256", "--json", "--quiet"]
    arguments[arguments.index("0.5")] = "0.05,0.5"
    code, out, _ = run(capfd, *arguments)
    rows = {row["row"]: row for row in json.loads(out)["rows"]}
    assert code == 0
    assert "text that must stay" in rows["purekv 0.05"]["failure"]
    assert rows["purekv 0.5"]["runs"]


@pytest.mark.parametrize(
    ("arguments", "what", "hint"),
    [
        (["--tokens", "8q"], "8q", "8k"),
        (["--policy", "purkev"], "purkev", "purekv"),
        (["--shape", "8b"], "8b", "7b"),
        (["--shape", "tiny", "-m", "demo"], "contradict", "one"),
        (["--tokens", "1k", "--frames", "8"], "contradict", "one"),
        (["--export-json", "found.txt"], ".json", "found.json"),
        (["--plot", "no/such/folder/a.png"], "cannot write", "folder"),
        (["--report", "found.pdf"], ".html", "found.json"),
    ],
)
def test_mistakes_are_two_lines_before_any_work(
    capfd: pytest.CaptureFixture[str], arguments: list[str], what: str, hint: str
) -> None:
    code, out, err = run(capfd, "bench", "--device", "cpu", *arguments)
    first, second = err.splitlines()
    assert (code, out) == (2, "")
    assert what in first
    assert hint in second


def test_from_a_file_to_the_first_token_by_stage(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    write(clip, seconds=1, size=(224, 280))
    code, out, _ = run(capfd, SMALL[0], clip, *SMALL[1:], "--frames", "6", "--json", "--quiet")
    record = json.loads(out)
    assert code == 0
    assert record["rows"] == []
    assert record["stock preprocessing"]
    walks = record["from_file"]
    assert [walk["kind"] for walk in walks] == ["stock", "dense", "whole", "propagated"]
    for walk in walks:
        assert walk["file"] == "clip.mp4"
        assert walk["tokens"] == 96 + 3 * 11 * 13  # 6 frames are 3 steps; 224 x 280 is enlarged to 308 x 364
        stages = walk["runs"][0]
        whole = stages.pop("first_token")
        assert 0 < sum(stages.values()) <= whole
    assert walks[0]["runs"][0]["prepare"] > 0


def test_a_red_tower_silences_only_what_begins_at_the_file(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = method_checks.tower_features
    monkeypatch.setattr(method_checks, "tower_features", lambda *given: 1.5 * real(*given))
    code, out, _ = run(capfd, *SMALL, "--tokens", "256", "--first-token", "--frames", "4")
    walk = [line for line in out.splitlines() if "gate: vision tower" in line]
    assert code == 1
    assert len(walk) == 3  # every row of ours, none of the rows by length


def test_help_is_light() -> None:
    assert not imported_by("bench", "--help") & set(HEAVY)


def test_the_embedded_model_with_its_own_frame_size(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(tmp_path / "clip.mp4", seconds=1, size=(112, 112))
    arguments = [*SMALL[1:], "--frames", "4", "--budget", "0.9", "--json", "--quiet"]
    del arguments[arguments.index("--shape") : arguments.index("--shape") + 2]
    code, out, _ = run(capfd, "bench", tmp_path / "clip.mp4", "-m", "demo", *arguments)
    record = json.loads(out)
    assert code == 0
    assert record["model"] == "demo"
    geometry = registry.resolve("demo").geometry
    assert geometry is not None
    steps, rows, columns = geometry.grid(4, 112, 112)
    assert record["from_file"][0]["tokens"] == 96 + steps * rows * columns
