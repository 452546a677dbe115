"""A model's first answer compiles hardly more than its kernels' trials have compiled already."""

import json
import os
import subprocess
import sys

import pytest


def test_the_decoder_runs_the_variants_that_were_tried() -> None:
    """Shapes of Qwen2.5-VL-7B; prompts of any length, kept or moved rows, a token and a thousand."""
    pytest.importorskip("triton", minversion="3.6")  # a driver stands in for its own
    command = [sys.executable, "-m", "tests.kernels.compile_first_answer", "--list"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = json.loads(done.stdout)
    assert found["prefill"] == ["_rotate", "_compact_kernel"]  # tried: with rows that are moved
    assert found["token"] == ["_draw"]
    assert sum(map(len, found.values())) == 23
