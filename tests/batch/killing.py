"""Kill a batch again and again, then see that nothing was lost and nothing done twice.

By hand, with the embedded model:
    python -m tests.batch.killing                   # 300 clips, 12 of them bad, the whole batch killed ten times
    python -m tests.batch.killing --ray             # the same clips, two Ray workers, one of them killed once
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Survived:
    """What is true after the last run."""

    answered: Counter[tuple[str, str]]  # (file name, question): records
    failed: Counter[tuple[str, str]]
    errors: Counter[str]
    headers: int
    code: int  # of the last run
    err: str
    lines_at_kill: list[int]  # how far the ledger was at every kill
    seconds: float  # of the last run


def survive(command: Sequence[str], ledger: Path, pauses: Sequence[float], *, loading: int = 0) -> Survived:
    """Run the command, killing it after each of the pauses (s), then once to its end.

    Args:
        loading: so many of the pauses begin with the process, whose start the kill may meet; the others begin with the
            first new record.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    at_kill: list[int] = []
    for place, pause in enumerate(pauses):
        before = _lines(ledger)
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment)
        while place >= loading and process.poll() is None and _lines(ledger) <= max(before, 1):
            time.sleep(0.01)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        at_kill.append(_lines(ledger))
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return _counted(ledger, done.returncode, done.stderr, at_kill, time.monotonic() - began)


def lose_a_worker(command: Sequence[str], ledger: Path, after: int) -> Survived:
    """Run the command once, killing the first of its workers when the ledger has `after` lines."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    heard = ledger.with_suffix(".err")
    with heard.open("ab") as err:
        process = subprocess.Popen(command, stderr=err, stdout=subprocess.DEVNULL, env=environment)
    while process.poll() is None and _lines(ledger) < after:
        time.sleep(0.01)
    worker = re.search(r"^worker (\d+):", heard.read_text(), re.MULTILINE)
    assert worker is not None
    os.kill(int(worker[1]), signal.SIGKILL)
    code = process.wait()
    return _counted(ledger, code, heard.read_text(), [after], time.monotonic() - began)


def _counted(ledger: Path, code: int, err: str, at_kill: list[int], seconds: float) -> Survived:
    answered, failed, headers = Counter[tuple[str, str]](), Counter[tuple[str, str]](), 0
    errors = Counter[str]()
    for line in ledger.read_text().splitlines():
        record = json.loads(line)
        if "status" not in record:
            headers += 1
            continue
        counted = answered if record["status"] == "answered" else failed
        counted[Path(record["video"]).name, record["question"]] += 1
        if "error" in record:
            errors[record["error"]["type"]] += 1
    return Survived(answered, failed, errors, headers, code, err, at_kill, seconds)


def _lines(ledger: Path) -> int:
    return ledger.read_bytes().count(b"\n") if ledger.exists() else 0


def clips_with_bad_ones(folder: Path, clips: int, bad: int) -> set[str]:
    """Tiny videos, `bad` of them unreadable in different ways; returns their names."""
    from tests.clips import Recipe, audio_only, make, truncated

    rng = random.Random(0)
    names = [f"clip{index:03d}.mp4" for index in range(clips)]
    unlucky = set(rng.sample(names, bad))
    for place, name in enumerate(names):
        if name not in unlucky:
            make(folder, Recipe(name, frames=8 + 4 * (place % 3), fps=4, gop=4, size=(56, 84)))
            continue
        path = folder / name
        match place % 4:
            case 0:
                path.write_bytes(b"")
            case 1:
                path.write_bytes(rng.randbytes(5000))
            case 2:
                audio_only(path)
            case 3:
                whole = make(folder, Recipe("whole.mp4"))
                truncated(whole, 0.3, name)
                whole.path.unlink()
    return unlucky


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("clips", 300), ("bad", 12), ("kills", 10), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--ray", action="store_true", help="two Ray workers, one of them killed")
    parser.add_argument("--longest", type=float, default=12.0, help="seconds before a kill, at most")
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder, ledger = Path(temporary, "clips"), Path(temporary, "out.jsonl")
        folder.mkdir()
        unlucky = clips_with_bad_ones(folder, asked.clips, asked.bad)
        questions = ("what happens?", "which number can be seen?")
        flags = [flag for question in questions for flag in ("-q", question)]
        command = [sys.executable, "-m", "purekv_cli", "batch", str(folder), *flags, "-o", str(ledger), "-m", "demo"]
        if asked.ray:
            command += ["--ray", "local", "--workers", "2", "--cores", "1"]
        pauses = [rng.uniform(1.0, asked.longest) for _ in range(asked.kills)]
        if asked.ray:
            found = lose_a_worker(command, ledger, after=rng.randrange(100, 400))
        else:
            found = survive(command, ledger, pauses, loading=asked.kills // 3)
        names = {f"clip{index:03d}.mp4" for index in range(asked.clips)}
        pairs = {(name, question) for name in names for question in questions}
        bad = {(name, question) for name in unlucky for question in questions}
        lost = {name for name, _ in found.failed.keys() - bad}
        checks = {
            "every pair recorded exactly once": found.answered + found.failed == Counter(pairs),
            "every bad pair among the failed": bad <= found.failed.keys(),
            f"videos lost with a worker: {len(lost)}": len(lost) <= asked.ray,
            "exit code 6": found.code == 6,
            "the bad ones named": all(name in found.err for name in unlucky),
        }
        print(f"ledger lines at each kill: {found.lines_at_kill}; last run {found.seconds:.1f} s")
        print(f"{found.answered.total()} answered, {found.failed.total()} failed, {found.headers} header")
        print(dict(found.errors))
        for what, holds in checks.items():
            print(f"{'yes' if holds else 'NO '}  {what}")
        if not all(checks.values()):
            sys.exit(found.err)


if __name__ == "__main__":
    main()
