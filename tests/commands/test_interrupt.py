"""Ctrl-C at every stage and a reader that leaves: the promised code, no traceback, nothing half written."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clips import Recipe, make

# Runs the real command with one stage made endless, so that the signal meets that stage and no other.
SLOWED = """
import sys, time
import purekv_cli.video.decode, purekv_cli.runtime.engine
from purekv_cli import pipeline
from purekv_cli.app import main
from purekv_cli.runtime.events import Progress, Text

stage = sys.argv.pop(1)

def slow(tell):
    def told(event):
        tell(event)
        if isinstance(event, Text) if stage == "answer" else isinstance(event, Progress) and event.stage == stage:
            print("REACHED", file=sys.stderr, flush=True)
            while True:
                time.sleep(0.01)
    return told

decode, ask = pipeline.Run.decode, pipeline.Run.ask
pipeline.Run.decode = lambda self, tell: decode(self, slow(tell))
pipeline.Run.ask = lambda self, adapter, questions, how, tell, *rest: ask(
    self, adapter, questions, how, slow(tell), *rest
)
main()
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("clips"), Recipe()).path


@pytest.mark.parametrize("stage", ["decode", "prefill", "answer"])
def test_ctrl_c(stage: str, clip: Path, bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOWED, stage, "ask", str(clip), "what?", "-m", str(bundle)]
    report = tmp_path / "report.html"
    process = subprocess.Popen(
        [*command, "--report", str(report), "--max-tokens", "4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job has it ignored
    )
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if "REACHED" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, "".join(seen) + err
    assert err.splitlines()[0] == "purekv: interrupted"
    assert len(err.splitlines()) == 2
    assert out.endswith("\n") if stage == "answer" else out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_early(clip: Path, bundle: Path) -> None:
    command = [sys.executable, "-m", "purekv_cli", "ask", str(clip), "what?", "-m", str(bundle), "--quiet"]
    process = subprocess.Popen(
        [*command, "--max-tokens", "4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait(timeout=60) == 141
    assert err == ""
