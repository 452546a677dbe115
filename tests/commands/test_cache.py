"""`purekv ask` finds what an earlier `ask` kept, and `purekv cache` says what is there."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from purekv_cli.app import main
from purekv_cli.settings import cache_path
from purekv_cli.store.header import read_header
from tests.clips import Recipe, make

Purekv = Callable[..., tuple[int, str, str]]
HIT, KEPT = "read from the cache", "kept for later questions"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make(tmp_path, Recipe()).path


@pytest.fixture
def purekv(capfd: pytest.CaptureFixture[str]) -> Purekv:
    """Runs `purekv ...`: (exit code, stdout, stderr)."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def ask(purekv: Purekv, bundle: Path, clip: Path) -> Purekv:
    """`purekv ask CLIP ...` with a model that answers nonsense, always the same; (exit code, stdout, stderr)."""
    model = ["-m", bundle, "--max-tokens", "6", "--device", "cpu", "--dtype", "float32", "--observe", "template"]

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        return purekv("ask", clip, *arguments, *model)

    return run


def files() -> list[Path]:
    return sorted((cache_path() / "kv").glob("*"))


def answers(out: str) -> list[str]:
    return [answer["text"] for answer in json.loads(out)["answers"]]


def test_the_second_question_needs_no_frames(ask: Purekv, monkeypatch: pytest.MonkeyPatch) -> None:
    _, truth, _ = ask("what?", "-q", "why?", "--no-cache", "--json")
    _, out, err = ask("what?", "--json")
    assert KEPT in err
    assert answers(out) == answers(truth)[:1]
    monkeypatch.setattr("purekv_cli.pipeline.decode", None)
    monkeypatch.setattr("purekv_cli.runtime.vision_stream.decode", None)
    _, out, err = ask("what?", "-q", "why?", "--json")
    assert HIT in err
    assert answers(out) == answers(truth)
    record, before = json.loads(out), json.loads(truth)
    for name in ("video", "sample", "model", "method", "damage"):
        assert record[name] == before[name]
    first, second = (answer["stats"] for answer in record["answers"])
    assert first["decode_seconds"] == first["vision_seconds"] == 0
    assert first["first_token_seconds"] > first["recall_seconds"] > 0 == second["recall_seconds"]
    assert first["kv_bytes_kept"] == before["answers"][0]["stats"]["kv_bytes_kept"]


def test_reports_show_the_same_pictures(ask: Purekv, tmp_path: Path) -> None:
    pages = []
    for name in ("first.html", "second.html"):
        ask("what?", "--report", tmp_path / name)
        pages.append((tmp_path / name).read_text())
    pictures = [[part.split('"')[0] for part in page.split("data:image/jpeg")[1:]] for page in pages]
    assert pictures[0] == pictures[1] != []


@pytest.mark.parametrize("flags", [("--policy", "random"), ("--policy", "knorm"), ("--dense",)], ids=" ".join)
def test_policies_that_read_no_question_find_theirs(ask: Purekv, flags: tuple[str, ...]) -> None:
    _, truth, _ = ask("why?", *flags, "--no-cache")
    assert KEPT in ask("what?", *flags)[2]
    _, out, err = ask("why?", *flags)
    assert HIT in err
    assert out == truth


OTHERS = (
    "--end 1.5|--start 0.5|--fps 1|--max-pixels 8000|--budget 0.3|--policy snapkv|--propagate 1:0.5|--kernels reference"
)


@pytest.mark.parametrize("flags", OTHERS.split("|"))
def test_another_setting_finds_nothing(ask: Purekv, flags: str) -> None:
    ask("what?")
    assert HIT not in ask("what?", *flags.split())[2]
    assert HIT in ask("what?")[2]


def test_the_file_may_be_renamed_but_not_changed(ask: Purekv, clip: Path, tmp_path: Path, purekv: Purekv) -> None:
    ask("what?")
    copy, state = tmp_path / "elsewhere.mp4", clip.stat()
    shutil.move(clip, copy)
    shutil.copy(make(tmp_path, Recipe("other.mp4", frames=40)).path, clip)
    os.utime(clip, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert KEPT in ask("what?")[2]
    shutil.copy(copy, clip)
    assert HIT in ask("what?")[2]


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "another's"])
def test_a_damaged_file_is_made_anew(ask: Purekv, damage: str) -> None:
    _, truth, _ = ask("what?")
    (file,) = files()
    whole = file.read_bytes()
    if damage == "another's":
        ask("what?", "--budget", "0.3")
        (other,) = [path for path in files() if path != file]
        shutil.copy(other, file)
    else:
        file.write_bytes({"cut": whole[:-1], "changed": whole[:-1] + bytes([whole[-1] ^ 1]), "empty": b""}[damage])
    code, out, err = ask("what?")
    assert (code, out) == (0, truth)
    assert "is of no use" in err
    assert KEPT in err
    read_header(file)
    assert HIT in ask("what?")[2]


@pytest.mark.parametrize("trouble", ["no room", "no folder", "disk full"])
def test_what_cannot_be_kept_is_a_note(ask: Purekv, trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, truth, _ = ask("what?", "--no-cache")
    flags: list[str] = []
    if trouble == "no room":
        flags = ["--cache-limit", "1kB"]
    elif trouble == "no folder":
        cache_path().parent.mkdir(parents=True, exist_ok=True)
        cache_path().write_text("a file where the folder should be")
    else:

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("purekv_cli.store.file.save_file", full)
    code, out, err = ask("what?", *flags)
    assert (code, out) == (0, truth)
    assert "not kept for later questions" in err
    assert files() == []


def test_a_policy_that_reads_the_question_keeps_nothing(purekv: Purekv, clip: Path, bundle: Path) -> None:
    model = ("-m", bundle, "--max-tokens", "2", "--device", "cpu")
    _, _, err = purekv("ask", clip, "what?", *model)
    assert KEPT not in err
    _, _, err = purekv("ask", clip, "what?", *model, "--cache")
    assert "reads the question, so nothing is kept" in err
    assert files() == []


def test_the_configuration_may_forbid_it(ask: Purekv, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('cache = false\ncache-limit = "1GiB"\n')
    monkeypatch.setenv("PUREKV_CONFIG", str(tmp_path / "config.toml"))
    assert KEPT not in ask("what?")[2]
    monkeypatch.setenv("PUREKV_CACHE", "1")
    assert KEPT in ask("what?")[2]
    (tmp_path / "config.toml").write_text('cache-limit = "1 fathom"\n')
    code, _, err = ask("what?")
    assert code == 2
    assert "cannot read the size '1 fathom'" in err


def test_list_tells_what_is_there(ask: Purekv, purekv: Purekv, clip: Path) -> None:
    assert "0 in" in purekv("cache")[1]
    ask("what?")
    ask("what?", "--budget", "0.3", "--start", "1")
    files()[0].with_name("f.safetensors").write_bytes(b"nonsense")
    _, out, _ = purekv("cache", "list")
    assert out.count(clip.name) == 2
    assert "0:01-0:04" in out
    assert "damaged" in out
    told = json.loads(purekv("cache", "--json")[1])
    assert told["limit_bytes"] == 10 * 2**30
    assert told["bytes"] == sum(path.stat().st_size for path in files())
    assert sorted(str(entry.get("budget")) for entry in told["entries"]) == ["0.2", "0.3", "None"]


def test_clear_says_what_it_freed(ask: Purekv, purekv: Purekv, clip: Path, tmp_path: Path) -> None:
    other = make(tmp_path, Recipe("other.mp4", frames=40)).path
    ask("what?")
    ask("what?", "--budget", "0.3")
    assert purekv("cache", "clear", other)[1] == "0 cleared, 0 B freed\n"
    moved = Path(shutil.move(clip, tmp_path / "moved.mp4"))
    assert purekv("cache", "clear", moved)[1].startswith("2 cleared")
    shutil.copy(moved, clip)
    ask("what?")
    clip.unlink()
    assert purekv("cache", "clear", clip)[1].startswith("1 cleared")
    assert files() == []
    assert purekv("cache", "clear")[1] == "0 cleared, 0 B freed\n"


@pytest.mark.parametrize("arguments", [["cache"], ["ask", "missing.mp4", "what?"]], ids=" ".join)
def test_what_needs_no_torch_does_not_wait_for_it(arguments: list[str]) -> None:
    code = f"import sys; from purekv_cli.app import main\ntry: main({arguments})\nexcept SystemExit: "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
