"""Whatever is wrong with the input: the right code, one line what, one line what to do, nothing half written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from purekv_cli.app import main
from tests.clips import Recipe, audio_only, corrupted, make, truncated, zero_duration


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    good = make(folder, Recipe(frames=48, gop=6))
    make(folder, Recipe("one.mp4", frames=1))
    audio_only(folder / "sound.mp4")
    (folder / "text.mp4").write_text("This is no video. " * 50)
    (folder / "zero.mp4").write_bytes(b"")
    (folder / "empty").mkdir()
    (folder / "notes").mkdir()
    (folder / "notes" / "readme.txt").write_text("no pictures here")
    truncated(good, 0.3, "stub.mp4")
    zero_duration(good, "still.mp4")
    corrupted(good, range(20, 24), "corrupt.mp4")
    return folder


Purekv = Callable[..., tuple[int, str, str]]


@pytest.fixture
def purekv(capfd: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path) -> Purekv:
    """Runs `purekv ask` with a report asked for: (exit code, stdout, stderr)."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        words = [*map(str, arguments)]
        words += [] if "-m" in words else ["-m", str(bundle)]
        words += [] if "--report" in words else ["--report", str(tmp_path / "report.html")]
        with pytest.raises(SystemExit) as ended:
            main(["ask", *words, "--max-tokens", "4", "--offline"])
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def is_two_lines(err: str) -> bool:
    """The last two lines are the error; the plan and notices may stand before."""
    lines = err.splitlines()
    return (
        "Traceback" not in err
        and [line.startswith("purekv: ") for line in lines].count(True) == 1
        and lines[-2].startswith("purekv: ")
        and lines[-1].startswith("  ")
    )


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("missing.mp4", 3),
        ("empty", 3),
        ("notes", 3),
        ("text.mp4", 3),
        ("sound.mp4", 3),
        ("zero.mp4", 3),
        ("stub.mp4", 3),
        ("still.mp4", 3),
    ],
)
def test_an_unreadable_file(purekv: Purekv, clips: Path, tmp_path: Path, name: str, code: int) -> None:
    ended, out, err = purekv(clips / name, "what?")
    assert (ended, out) == (code, "")
    assert is_two_lines(err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["--start", "9"], 2, "4.0"),
        (["--start", "3", "--end", "2"], 2, "--end"),
        (["--budget", "0"], 2, "0.2"),
        (["--budget", "1.5"], 2, "0.2"),
        (["--budget", "lots"], 2, "512MiB"),
        (["--budget", "3t"], 2, "at least"),
        (["--budget", "1B"], 2, "at least"),
        (["--propagate", "99:0.4"], 2, "layer from 1 to"),
        (["--propagate", "many"], 2, "4:0.35"),
        (["--top-p", "0"], 2, "top-p"),
        (["--policy", "purekw"], 2, "'purekv'"),
        (["--preset", "dem"], 2, "'demo'"),
        (["--preset", "missing.toml"], 2, "path"),
        (["-m", "8b"], 2, "b"),
        (["-m", "no/such-model"], 4, ""),
        (["--report", "/no/such/folder/report.html"], 2, "Create it"),
        (["--report", "report.pdf"], 2, ".html"),
        (["--device", "cuda:99"], 5, ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wish_that_cannot_be(
    purekv: Purekv, clips: Path, tmp_path: Path, arguments: list[str], code: int, hint: str
) -> None:
    ended, out, err = purekv(clips / "plain.mp4", "what?", *arguments)
    assert (ended, out) == (code, "")
    assert is_two_lines(err)
    assert hint in err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_is_noticed_before_work(
    purekv: Purekv, clips: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    monkeypatch.setattr("purekv_cli.commands.answering.probed", None)
    ended, _, err = purekv(clips / "plain.mp4", "what?")
    assert ended == 2
    assert is_two_lines(err)


def test_a_full_disk_leaves_no_report(
    purekv: Purekv, clips: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    ended, out, err = purekv(clips / "plain.mp4", "what?")
    assert ended == 5
    assert out  # the answer was given
    assert is_two_lines(err)
    assert list(tmp_path.iterdir()) == []


def test_one_frame_is_enough(purekv: Purekv, clips: Path) -> None:
    ended, out, _ = purekv(clips / "one.mp4", "what?", "--budget", "0.9")
    assert ended == 0
    assert out


def test_corrupt_packets_are_survived_and_reported(purekv: Purekv, clips: Path, tmp_path: Path) -> None:
    ended, out, err = purekv(clips / "corrupt.mp4", "what?", "--fps", "12")
    assert ended == 0
    assert out
    assert "damaged packet" in err
    assert "damaged packet" in (tmp_path / "report.html").read_text()


def test_memory_that_runs_out_is_code_5(purekv: Purekv, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("purekv_cli.pipeline.decode", out_of_memory)
    ended, _, err = purekv(clips / "plain.mp4", "what?")
    assert ended == 5
    assert is_two_lines(err)
    assert "--max-frames" in err


def test_a_clip_that_memory_cannot_hold_is_read_with_fewer_frames(
    purekv: Purekv, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("purekv_cli.commands.model.ChosenModel.room", lambda self: 300)  # 560 are wanted
    ended, out, err = purekv(clips / "plain.mp4", "what?")
    assert ended == 0
    assert out
    assert "free memory has room for about 300 of 560 video tokens" in err
    assert "4 frames of 392x280, 280 tokens" in err
