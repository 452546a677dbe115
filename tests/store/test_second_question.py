"""The measurement: both questions run, the second from the cache and with the tokens it has without one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from purekv_cli.bench import shapes
from purekv_cli.bench.clip import write
from purekv_cli.bench.second_question import adapter_of, measure
from purekv_cli.settings import ClipSettings, MethodSettings, ModelSettings, Settings


def test_the_table_has_both_questions_and_their_tokens_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, "tiny", replace(shapes.SHAPES["tiny"], vocabulary=8000))
    adapter = adapter_of("tiny", torch.device("cpu"), torch.float32)
    clips = [tmp_path / "warm.mp4", tmp_path / "clip.mp4"]
    for seconds, clip in enumerate(clips, 1):
        write(clip, seconds, (112, 112))
    settings = Settings(
        ClipSettings(frames=4), method=MethodSettings(observe="template"), model=ModelSettings(max_tokens=4)
    )
    lines = measure(adapter, clips, settings, tmp_path / "kv", runs=1)
    table = [[cell.strip() for cell in line.split("|")[1:4]] for line in lines if line.startswith("|")]
    (watched,) = [row for row in table if row[0] == "decoding and vision"]
    (recalled,) = [row for row in table if row[0] == "reading the cache"]
    assert watched[2] == recalled[1] == "0 ms"
    assert lines[-1].endswith("the same tokens as without a cache.")
