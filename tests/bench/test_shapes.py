"""Shapes of every family run the whole bench, shrunk so that a CPU does in seconds what a GPU does with real ones."""

import json
from dataclasses import replace

import pytest
import torch

from purekv_cli.bench import engines, shapes
from purekv_cli.bench.shapes import SHAPES, build
from tests.bench.test_command import SMALL, run

CPU = torch.device("cpu")
OTHERS = [name for name, shape in SHAPES.items() if shape.kind != "Qwen2_5_VL"]


def shrink(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same kind of decoder with small numbers, grouped and tied as the real one."""
    real = SHAPES[name]
    grouped = 2 if real.kv_heads < real.heads else 4
    small = replace(real, hidden=64, intermediate=128, layers=4, heads=4, kv_heads=grouped, head_dim=16, vocabulary=320)
    monkeypatch.setitem(shapes.SHAPES, name, small)


@pytest.mark.parametrize("name", OTHERS)
def test_the_fast_engine_takes_every_shape(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(name, monkeypatch)
    model = build(name, CPU, torch.float32)
    assert engines.ours(model).name == "fast"
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    assert (tables[0] is tables[1]) is SHAPES[name].tied


@pytest.mark.parametrize("name", ["qwen2-vl-7b", "qwen3-vl-8b", "videollama2-7b", "smolvlm2-2.2b"])
def test_a_bench_of_a_shape(name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    shrink(name, monkeypatch)
    line = [name if word == "tiny" else word for word in SMALL]
    code, out, err = run(capfd, *line, "--tokens", "256", "--json")
    assert code == 0, out + err
    record = json.loads(out)
    assert record["green"]
    assert [row["failure"] for row in record["rows"]] == [None] * len(record["rows"])


def test_from_a_file_on_only_a_known_tower_is_measured(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shrink("qwen3-vl-8b", monkeypatch)
    line = ["qwen3-vl-8b" if word == "tiny" else word for word in SMALL]
    code, _, err = run(capfd, *line, "--first-token")
    assert code == 2
    assert "only models with Qwen2.5-VL's vision tower" in err


@pytest.mark.parametrize(
    ("name", "billions"),
    [("7b", 7.6), ("qwen3-vl-8b", 8.2), ("qwen3-vl-4b", 4.0), ("videollama2-7b", 7.2), ("llava-next-video-7b", 6.7)],
)
def test_sizes_are_those_of_the_released_decoders(name: str, billions: float) -> None:
    assert SHAPES[name].parameters / 1e9 == pytest.approx(billions, abs=0.06)
