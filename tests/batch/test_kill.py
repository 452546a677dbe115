"""SIGKILL for the whole batch at random moments: every pair answered exactly once, and the bad ones named."""

import random
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.batch.conftest import Stubs
from tests.batch.killing import survive

QUESTIONS = ("who?", "why?")


def test_nothing_is_lost_and_nothing_done_twice(stubs: Stubs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_SECONDS", "0.1")
    bad = {"clip3", "clip9"}
    names = [f"clip{index}" for index in range(12)]
    folder = stubs(**{name: "bad" if name in bad else "ok" for name in names})
    ledger = tmp_path / "out.jsonl"
    asked = [flag for question in QUESTIONS for flag in ("-q", question)]
    command = [sys.executable, "-m", "tests.batch.stub", "batch", str(folder), *asked, "-o", str(ledger), "-m", "demo"]
    rng = random.Random(1)
    found = survive(command, ledger, [rng.uniform(0.0, 0.8) for _ in range(3)])
    pairs = {(f"{name}.mp4", question) for name in names for question in QUESTIONS}
    failed = {(f"{name}.mp4", question) for name in bad for question in QUESTIONS}
    assert found.answered == Counter(pairs - failed)
    assert found.failed == Counter(failed)
    assert found.headers == 1
    assert found.code == 6
    assert all(f"{name}.mp4" in found.err for name in bad)
    lines = found.lines_at_kill
    assert 1 < lines[0] < lines[1] < lines[2] < 25  # every kill met work
