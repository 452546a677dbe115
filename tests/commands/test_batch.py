"""`purekv batch` from end to end on real files, with a tiny random model in a released checkpoint's layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from purekv_cli.app import main
from tests.clips import Recipe, corrupted, make

Purekv = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for name in ("a.mp4", "b.mkv"):
        good = make(folder, Recipe(name, frames=24, gop=6))
    corrupted(good, range(9, 12), "c.mkv")
    (folder / "d.mp4").write_text("This is no video. " * 50)
    return folder


@pytest.fixture
def purekv(capfd: pytest.CaptureFixture[str], bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Purekv:
    """Runs `purekv ... -m BUNDLE` with short answers: (exit code, stdout, stderr)."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        flags = ["-m", str(bundle), "--max-tokens", "4", "--device", "cpu", "--dtype", "float32"]
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), *flags])
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def records(path: Path) -> list[dict[str, Any]]:
    return [r for line in path.read_text().splitlines() if "status" in (r := json.loads(line))]


def test_answers_are_those_of_ask_and_damage_is_told(purekv: Purekv, clips: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "out.jsonl"
    code, out, err = purekv("batch", clips, "-q", "what?", "-q", "where?", "-o", ledger, "--fps", "12")
    assert (code, out) == (6, "")
    assert "Traceback" not in err
    found = {(Path(r["video"]).name, r["question"]): r for r in records(ledger)}
    assert len(found) == 8
    for name in ("a.mp4", "b.mkv", "c.mkv"):
        _, asked, _ = purekv("ask", clips / name, "what?", "-q", "where?", "--fps", "12", "--quiet", "--json")
        for answer in json.loads(asked)["answers"]:
            ours = found[name, answer["question"]]
            assert ours["answer"] == answer["text"]
            assert ours["stats"]["kv_bytes_kept"] == answer["stats"]["kv_bytes_kept"]
    assert "damaged packet" in found["c.mkv", "what?"]["damage"]
    assert found["d.mp4", "where?"]["error"]["type"] == "UnreadableInput"


def test_an_answer_does_not_depend_on_where_a_run_broke_off(purekv: Purekv, clips: Path, tmp_path: Path) -> None:
    """With a shared prefill, too: the second question alone is the second question after the first."""
    whole, late = tmp_path / "whole.jsonl", tmp_path / "late.jsonl"
    shared = ("--observe", "video")
    purekv("batch", clips / "a.mp4", "-q", "what?", "-q", "where?", "-o", whole, *shared)
    purekv("batch", clips / "a.mp4", "-q", "where?", "-o", late, *shared)
    assert records(late)[0]["answer"] == records(whole)[1]["answer"]
    again = purekv("batch", clips / "a.mp4", "-q", "what?", "-q", "where?", "-o", whole, *shared, "--together", "8")
    assert (again[0], len(records(whole))) == (0, 2)  # nothing that answers depend on
    first, second = (r["stats"] for r in records(whole))
    assert first["prefill_path"]
    assert not second["prefill_path"]  # the clip was not read again


def test_jobs_have_ranges_of_their_own(purekv: Purekv, clips: Path, tmp_path: Path) -> None:
    jobs, ledger = tmp_path / "jobs.jsonl", tmp_path / "out.jsonl"
    asked = [
        {"video": str(clips / "a.mp4"), "question": "why?", "id": "first", "end": 1},
        {"video": str(clips / "a.mp4"), "question": "why?", "start": 99},
        {"video": str(clips / "gone.mp4"), "question": "why?"},
    ]
    jobs.write_text("".join(json.dumps(job) + "\n" for job in asked))
    assert purekv("batch", jobs, "-o", ledger)[0] == 6
    short, late, gone = records(ledger)
    assert (short["id"], short["end"], short["status"]) == ("first", 1.0, "answered")
    assert short["stats"]["video_tokens"] == 140  # one temporal step of the two
    assert "past the clip's end" in late["error"]["message"]
    assert "does not exist" in gone["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ((), "-o out.jsonl"),
        (("-o", "out.jsonl", "--budget", "lots"), "512MiB"),
        (("-o", "out.jsonl", "--policy", "purekw"), "'purekv'"),
        (("-o", "out.jsonl", "--propagate", "99:0.4"), "layer from 1 to"),
        (("-o", "out.jsonl", "--top-p", "0"), "top-p"),
        (("-o", "out.jsonl", "--audio"), "--audio"),
        (("-o", "out.jsonl", "--shard", "3/2"), "1/4"),
        (("-o", "-", "--format", "csv"), "-o out.jsonl"),
    ],
)
def test_a_wish_that_cannot_be_is_found_before_work(
    purekv: Purekv, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = purekv("batch", clips, "-q", "why?", *arguments)
    assert (code, out) == (2, "")
    assert hint in err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_counts_and_stops(purekv: Purekv, clips: Path, tmp_path: Path) -> None:
    code, out, err = purekv("batch", clips, "-q", "why?", "-q", "how?", "-o", tmp_path / "out.jsonl", "--dry-run")
    assert (code, out) == (0, "")
    assert err.startswith("8 questions about 4 clips")
    assert list(tmp_path.iterdir()) == []
