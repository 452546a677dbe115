"""`purekv chat` from end to end: lines through a pipe, with a tiny random model and with the demo model."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from purekv_cli.app import main
from purekv_cli.commands.answering import generation, planned
from purekv_cli.commands.options import MethodFlags, ModelFlags
from purekv_cli.demo import sample_clip
from purekv_cli.pipeline import Run
from purekv_cli.runtime.events import Answer
from purekv_cli.settings import settle
from purekv_cli.terminal import Terminal
from purekv_cli.video.decode import decode
from purekv_cli.video.frames import Frames
from purekv_cli.video.info import VideoInfo
from tests.clips import Recipe, make

Chat = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("clips"), Recipe(ticks=tuple(range(8)))).path


@pytest.fixture
def chat(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, bundle: Path, clip: Path) -> Chat:
    """Runs `purekv chat CLIP` on lines of a pipe, with short answers: (exit code, stdout, stderr)."""

    def run(lines: str | bytes, *flags: str | Path) -> tuple[int, str, str]:
        pipe = io.BytesIO(lines.encode() if isinstance(lines, str) else lines)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(pipe, encoding="utf-8"))
        model = ("-m", bundle, "--dtype", "float32", "--device", "cpu", "--max-tokens", "5")
        with pytest.raises(SystemExit) as ended:
            main(["chat", *map(str, (clip, *model, *flags))])
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def asked(bundle: Path, clip: Path, *questions: str, **method: Any) -> list[Answer]:
    """What the engine says to a first question and those that follow it up."""
    model = ModelFlags(model=str(bundle), dtype="float32", device="cpu", max_tokens=5)  # type: ignore[arg-type]
    settings = settle(model, MethodFlags(**method))
    plan, chosen = planned(clip, settings, Terminal(quiet=True))
    run, wish = Run(plan), generation(settings)
    adapter = chosen.load("cpu", Terminal(quiet=True), lambda event: None)
    run.ask(adapter, questions[:1], wish, lambda event: None)
    assert run.session is not None
    return [*run.answers, *([*run.session.follow_up(question, wish)][-1] for question in questions[1:])]  # type: ignore[list-item]


def said(answers: list[Answer]) -> list[tuple[str, str, int, float]]:
    return [(a.question, a.text, a.stats.prompt_tokens, a.stats.kept_tokens) for a in answers]


def saved(path: Path) -> list[list[tuple[str, str, int, float]]]:
    """The answers of each part of a transcript."""
    parts = json.loads(path.read_text(encoding="utf-8"))["parts"]
    return [
        [(a["question"], a["text"], a["stats"]["prompt_tokens"], a["stats"]["kept_tokens"]) for a in part["answers"]]
        for part in parts
    ]


def test_turns_are_the_engines_and_stdout_holds_only_answers(
    chat: Chat, bundle: Path, clip: Path, tmp_path: Path
) -> None:
    file = tmp_path / "chat.json"
    code, out, err = chat(f"what?\n\n  why so? \nwhen?\n/stats\n/save {file}\n/help\n")
    assert code == 0, err
    expected = said(asked(bundle, clip, "what?", "why so?", "when?"))
    assert saved(file) == [expected]
    assert out == "".join(f"{text}\n" for _, text, *_ in expected)
    assert "/budget AMOUNT" in err
    assert "KV cache, kept" in err


def test_a_new_start_and_another_budget_forget_what_was_said(
    chat: Chat, bundle: Path, clip: Path, tmp_path: Path
) -> None:
    file = tmp_path / "chat.json"
    lines = f"what?\nwhy?\n/reset\nwhy?\n/new\n/budget 40%\nwhy?\nwhat?\n/save {file}\n"
    code, _, err = chat(lines, "--budget", "0.6")
    assert code == 0, err
    alone = asked(bundle, clip, "why?", budget="0.6")
    later = asked(bundle, clip, "why?", "what?", budget="0.4")
    assert saved(file) == [said(asked(bundle, clip, "what?", "why?", budget="0.6")), said(alone), said(later)]
    assert alone[0].stats.kept_tokens != later[0].stats.kept_tokens


def test_another_clip(chat: Chat, bundle: Path, tmp_path: Path) -> None:
    other, file = make(tmp_path, Recipe("an other.mp4", ticks=tuple(range(3)))).path, tmp_path / "chat.json"
    for written in (str(other), f'"{other}"', str(other).replace(" ", "\\ ")):
        code, _, err = chat(
            f"what?\n/video {written}\nwhat?\nwhy?\n/save {file}\n", "--start", "0.1", "--budget", "0.5"
        )
        assert code == 0, err
        assert saved(file)[1] == said(asked(bundle, other, "what?", "why?", budget="0.5"))


WRONG = (
    ("/viedo x.mp4", "no command named '/viedo'", "'/video'"),
    ("/", "no command named '/'", "/help"),
    ("/video", "/video needs PATH", "Write: /video PATH"),
    ("/reset now", "/reset takes nothing", "Write: /reset"),
    ("/video {}/none.mp4", "does not exist", "Check the path"),
    ("/video {}/bad.mp4", "bad.mp4", "Give an mp4"),
    ("/budget a lot", "cannot read the budget 'a lot'", "0.2"),
    ("/save {}/chat.txt", "should end in .md or .json", "chat.md"),
    ("/save {}/no/chat.md", "no such folder", "Create it"),
)


def test_what_cannot_be_is_said_in_two_lines_and_the_chat_goes_on(
    chat: Chat, bundle: Path, clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    lines = "".join(f"{line}\n" for line, *_ in WRONG).format(*[tmp_path] * 4)
    code, out, err = chat(f"what?\n{lines}why?\n", "--quiet")
    assert code == 1  # a script can tell
    assert out == "".join(f"{text}\n" for _, text, *_ in said(asked(bundle, clip, "what?", "why?")))
    told = err.splitlines()
    assert len(told) == 2 * len(WRONG)
    for (_, what, hint), line, advice in zip(WRONG, told[::2], told[1::2], strict=True):
        assert what in line
        assert hint in advice
    assert [path.name for path in tmp_path.iterdir()] == ["bad.mp4"]


def test_a_question_that_fails_is_forgotten(chat: Chat, bundle: Path, clip: Path) -> None:
    """A budget that cannot hold the text is only found when the prompt is there; the next one may be right."""
    code, out, err = chat("/budget 5t\nwhat?\n/stats\n/budget 0.5\nwhat?\n")
    assert code == 1
    assert "text that must stay" in err
    assert "nothing has been answered yet" in err
    assert out == asked(bundle, clip, "what?", budget="0.5")[0].text + "\n"


def test_whatever_goes_wrong_the_chat_goes_on(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(*_: object) -> None:
        raise ValueError("odd")

    monkeypatch.setattr("purekv_cli.chat.state.stats_table", odd)
    code, out, err = chat("/stats\nwhat?\n/stats\nwhy?\n")
    assert (code, len(out.splitlines())) == (1, 2)
    assert "ValueError: odd" in err
    assert "Traceback" not in err
    assert "Traceback" in chat("what?\n/stats\n", "-v")[2]


def test_a_full_disk_loses_neither_chat_nor_file(chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "chat.md"
    file.write_text("earlier")
    monkeypatch.setattr("pathlib.Path.replace", full)
    code, out, err = chat(f"what?\n/save {file}\nwhy?\n")
    assert (code, len(out.splitlines())) == (1, 2)
    assert "No space left" in err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["earlier"]


def test_ctrl_c_while_another_clip_is_read_keeps_the_old_one(
    chat: Chat, bundle: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(info: VideoInfo, *rest: Any, **more: Any) -> Frames:
        if info.path != clip:
            raise KeyboardInterrupt
        return decode(info, *rest, **more)

    monkeypatch.setattr("purekv_cli.pipeline.decode", interrupted)
    other = make(tmp_path, Recipe("other.mp4", ticks=tuple(range(3)))).path
    code, out, err = chat(f"what?\n/video {other}\nwhy?\n")
    assert (code, out) == (0, "".join(f"{text}\n" for _, text, *_ in said(asked(bundle, clip, "what?", "why?"))))
    assert "interrupted: the chat is as it was" in err


def test_the_cache_on_disk_spares_a_chat_its_first_reading(
    chat: Chat, bundle: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "what?\nwhy?\n/reset\nwhy?\n/budget 0.3\nwhat?\n/save {}\n"
    flags = ("--observe", "template", "--budget", "0.5")
    assert chat(lines.format(tmp_path / "first.json"), *flags)[0] == 0
    monkeypatch.setattr("purekv_cli.pipeline.decode", None)
    code, _, err = chat(lines.format(tmp_path / "second.json"), *flags)
    assert code == 0, err
    assert err.count("read from the cache") == 2
    assert saved(tmp_path / "first.json") == saved(tmp_path / "second.json")


def test_a_recalled_clip_is_decoded_where_that_is_needed(chat: Chat, tmp_path: Path) -> None:
    """Another budget needs the frames, which a recalled clip has not; so does a reset after that."""
    lines = "/reset\n/budget 0.3\nwhat?\n/reset\n/reset\nwhat?\n/save {}\n"
    flags = ("--observe", "template", "--budget", "0.5")
    assert chat(lines.format(tmp_path / "first.json"), *flags, "--no-cache")[0] == 0
    assert chat("what?\n", *flags)[0] == 0
    code, _, err = chat(lines.format(tmp_path / "second.json"), *flags)
    assert code == 0, err
    assert err.count("read from the cache") == 1
    assert saved(tmp_path / "first.json") == saved(tmp_path / "second.json")


def test_subtitles_stand_before_the_first_question(chat: Chat, clip: Path, tmp_path: Path) -> None:
    subs = tmp_path / "clip.srt"
    subs.write_text("1\n00:00:00,000 --> 00:00:01,000\nHello there.\n")
    _, _, plain = chat("what?\nwhy?\n/stats\n", "--budget", "0.9")
    _, _, err = chat(f"what?\nwhy?\n/stats\n/video {clip}\nwhat?\n/stats\n", "--budget", "0.9", "--subs", subs)
    lengths = [[int(n) for n in row.split()[2:]] for row in (plain + err).splitlines() if "prompt tokens" in row]
    (first, second), (told, later), again = lengths
    assert later - told == second - first  # a later turn says nothing of them
    assert told > first
    assert again == [told, later, first]  # they are the first clip's


def test_dense_has_no_budget(chat: Chat) -> None:
    assert "this chat keeps everything" in chat("/budget 0.1\n", "--dense")[2]


def test_questions_on_stdin_leave_no_room_for_a_video(chat: Chat) -> None:
    code, out, err = chat("what?\n/video -\nwhy?\n")
    assert (code, len(out.splitlines())) == (1, 2)
    assert "questions come on stdin" in err


def test_quit_ends_it(chat: Chat) -> None:
    assert chat("/quit\nwhat?\n")[:2] == (0, "")


def test_bytes_that_are_no_text_can_be_asked_and_saved(chat: Chat, tmp_path: Path) -> None:
    code, _, err = chat(b"what \xff?\n/save " + bytes(tmp_path / "chat.md") + b"\n")
    assert code == 0, err
    assert "**what \ufffd?**" in (tmp_path / "chat.md").read_text(encoding="utf-8")


def test_flags_of_the_screen(chat: Chat) -> None:
    code, streamed, err = chat("what?\n", "--stats")
    assert "KV cache, kept" in err
    assert chat("what?\n", "--quiet", "--no-stream") == (0, streamed, "")
    code, out, err = chat("what?\n", "--dry-run")
    assert (code, out) == (0, "")
    assert "tokens" in err


def test_the_demo_model_talks_about_its_clip(chat: Chat, tmp_path: Path) -> None:
    clip, file = tmp_path / "clip.mp4", tmp_path / "chat.md"
    sample_clip(clip)
    lines = f"/video {clip}\nwhat happens?\nwhich number can be seen?\n/save {file}\n"
    _, out, err = chat(lines, "-m", "demo", "--max-tokens", "64")
    story, number = out.splitlines()
    assert "11" in story
    assert number == "11", err
    text = file.read_text(encoding="utf-8")
    assert f"**what happens?**\n\n{story}\n\n**which number can be seen?**\n\n11\n" in text
    assert text.startswith("# clip.mp4\n\nclip.mp4 0:00-0:16 | 32 frames")
