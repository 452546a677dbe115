"""--subs from end to end: what the model reads, what the plan counts, what is said when there is less."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from purekv_cli.app import main
from purekv_cli.runtime.session import Session
from purekv_cli.subtitles.cue import Cue
from tests.clips import Recipe, make
from tests.subtitles.made import srt, with_stream

Purekv = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clip.mp4 with clip.srt, own.mkv with a stream, bare.mp4 with nothing."""
    folder = tmp_path_factory.mktemp("clips")
    bare = make(folder, Recipe("bare.mp4")).path
    (folder / "clip.mp4").write_bytes(bare.read_bytes())
    srt(folder / "clip.srt")
    with_stream(bare, folder / "own.mkv", "srt")
    return folder


@pytest.fixture
def purekv(capfd: pytest.CaptureFixture[str], bundle: Path) -> Purekv:
    """Runs `purekv ... -m BUNDLE` with short answers: (exit code, stdout, stderr)."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        usual = ["-m", str(bundle), "--max-tokens", "4", "--device", "cpu", "--dtype", "float32"]
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), *usual])
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The text of every turn, as the engine gets it."""
    turns: list[str] = []

    def listening(real: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def heard(session: Session, question: str, *more: Any, **others: Any) -> Iterator[Any]:
            turns.append(question)
            return real(session, question, *more, **others)

        return heard

    for way in ("first", "ask"):
        monkeypatch.setattr(Session, way, listening(getattr(Session, way)))
    return turns


@pytest.mark.parametrize("name", ["clip.mp4", "own.mkv"])
def test_the_model_reads_them_before_the_question(purekv: Purekv, folder: Path, asked: list[str], name: str) -> None:
    code, out, err = purekv("ask", folder / name, "why?", "--subs", "auto", "--json")
    assert code == 0
    assert asked == ["Subtitles of the video:\n[0:00-0:01] hello there\n[0:02-0:03] so long\n\nwhy?"]
    record = json.loads(out)
    assert record["answers"][0]["question"] == "why?"
    source = "its own stream" if name == "own.mkv" else "clip.srt"
    assert record["sample"]["subtitles"] == f"2 subtitles of {source}"
    assert f"(2 subtitles of {source})" in err.splitlines()[0]


def test_they_are_text_that_stays(purekv: Purekv, folder: Path) -> None:
    def stats(*flags: str) -> dict[str, Any]:
        answer = json.loads(purekv("ask", folder / "clip.mp4", "why?", "--json", *flags)[1])["answers"][0]
        return dict(answer["stats"])

    without, with_them = stats("--budget", "0.5"), stats("--budget", "0.5", "--subs", "auto")
    text = with_them["prompt_tokens"] - without["prompt_tokens"]
    assert text > 40  # a byte a token
    assert with_them["video_tokens"] == without["video_tokens"]
    assert with_them["kept_tokens"] == pytest.approx(with_them["prompt_tokens"] / 2, abs=1)
    over = stats("--budget", "0.5", "--subs", "auto", "--observe", "template")
    alone = stats("--budget", "0.5", "--observe", "template")
    assert over["kept_tokens"] - alone["kept_tokens"] == text  # on top of what stayed


def test_only_the_clips_own_count_from_its_beginning(purekv: Purekv, folder: Path, asked: list[str]) -> None:
    purekv("ask", folder / "clip.mp4", "why?", "--subs", "auto", "--start", "1.5", "--end", "3.5")
    assert asked == ["Subtitles of the video:\n[0:00-0:02] so long\n\nwhy?"]


def test_every_question_has_them(purekv: Purekv, folder: Path, asked: list[str]) -> None:
    purekv("ask", folder / "clip.mp4", "what?", "-q", "why?", "--subs", "auto")
    assert [turn.splitlines()[-1] for turn in asked] == ["what?", "why?"]
    assert all("[0:02-0:03] so long" in turn for turn in asked)


def test_a_clip_without_any_is_answered_about_with_a_note(purekv: Purekv, folder: Path, asked: list[str]) -> None:
    code, _, err = purekv("ask", folder / "bare.mp4", "why?", "--subs", "auto")
    assert (code, asked) == (0, ["why?"])
    assert "note: no subtitles of bare.mp4: no stream of its own, and none of bare[.LANGUAGE].srt" in err
    code, _, err = purekv("ask", folder / "clip.mp4", "why?", "--subs", "auto", "--start", "3.5")
    assert (code, asked[1:]) == (0, ["why?"])
    assert "note: clip.srt: none of its 2 subtitles lies within the clip" in err


def test_a_file_that_is_not_there_is_an_error(purekv: Purekv, folder: Path) -> None:
    code, out, err = purekv("ask", folder / "clip.mp4", "why?", "--subs", folder / "none.srt")
    assert (code, out) == (3, "")
    assert "none.srt" in err.splitlines()[-2]


def test_too_many_are_thinned_with_a_note(purekv: Purekv, folder: Path, tmp_path: Path) -> None:
    many = srt(tmp_path / "many.srt", [Cue(at / 10, at / 10 + 0.1, f"line {at}") for at in range(40)])
    code, _, err = purekv(
        "ask", folder / "clip.mp4", "why?", "--subs", many, "--subs-tokens", "300", "--dense", "--dry-run"
    )
    assert code == 0
    assert "of 40 subtitles, evenly chosen: all of them are more than 300 tokens (--subs-tokens)" in err


def test_a_budget_that_does_not_hold_them_is_refused_before_any_work(
    purekv: Purekv, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("purekv_cli.pipeline.decode", None)
    long = srt(tmp_path / "long.srt", [Cue(0, 1, "word " * 60)])
    code, _, err = purekv("ask", folder / "clip.mp4", "why?", "--subs", long, "--budget", "0.2")
    assert code == 2
    what, hint = err.splitlines()[-2:]
    assert "are text that must stay" in what
    assert "--subs-tokens" in hint
    least = hint.split("at least ")[1].split()[0]
    assert purekv("ask", folder / "clip.mp4", "why?", "--subs", long, "--budget", least, "--dry-run")[0] == 0


def test_a_batch_gives_each_video_its_own(folder: Path, tmp_path: Path, bundle: Path) -> None:
    from purekv_cli.batch.answerer import VideoAnswerer
    from purekv_cli.settings import ModelSettings, Settings, SubtitleSettings

    model = ModelSettings(model=str(bundle), max_tokens=2, device="cpu", dtype="float32")
    answerer = VideoAnswerer(Settings(model=model, subtitles=SubtitleSettings("auto")), 0)
    found = {}
    for name in ("clip.mp4", "own.mkv", "bare.mp4"):
        read = answerer.read((str(folder / name), None, None), lambda: None, ahead=False)
        found[name] = answerer.open(read, "why?").ask("why?", lambda: None)
    tokens = {name: answer["stats"]["prompt_tokens"] for name, answer in found.items()}
    assert tokens["clip.mp4"] == tokens["own.mkv"] > tokens["bare.mp4"]
    assert "no subtitles of bare.mp4" in found["bare.mp4"]["damage"]
    assert "damage" not in found["clip.mp4"]


def test_one_file_for_a_whole_batch_is_refused(purekv: Purekv, folder: Path, tmp_path: Path) -> None:
    code, _, err = purekv("batch", folder, "-q", "why?", "-o", tmp_path / "out.jsonl", "--subs", folder / "clip.srt")
    assert code == 2
    assert "--subs auto" in err.splitlines()[-1]
