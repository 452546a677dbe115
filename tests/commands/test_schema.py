"""--schema from end to end: the JSON alone on stdout, one retry, and what a failure leaves behind."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from purekv_cli.app import main
from purekv_cli.runtime.events import Answer, Event, Text
from purekv_cli.runtime.session import Session
from tests.clips import Recipe, make

SCHEMA = '{"type": "object", "required": ["animals"], "properties": {"animals": {"type": "array"}}}'
Purekv = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("clips"), Recipe()).path


@pytest.fixture
def purekv(capfd: pytest.CaptureFixture[str], bundle: Path) -> Purekv:
    """Runs `purekv ... -m BUNDLE` with short answers: (exit code, stdout, stderr)."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        usual = ["-m", str(bundle), "--max-tokens", "4", "--device", "cpu", "--dtype", "float32", "--budget", "0.7"]
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), *usual])
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], list[str]]:
    """Puts answers into the model's mouth; what is asked is gathered in the list that it returns."""

    def speak(lines: Sequence[str]) -> list[str]:
        left, asked = iter(lines), []

        def spoken(real: Callable[..., Iterator[Event]]) -> Callable[..., Iterator[Event]]:
            def turn(session: Session, question: str, *more: Any) -> Iterator[Event]:
                asked.append(question)
                (answer,) = [event for event in real(session, question, *more) if isinstance(event, Answer)]
                text = next(left)
                yield Text(text)
                yield Answer(question, text, "stop", answer.stats)

            return turn

        for way in ("first", "ask", "follow_up"):
            monkeypatch.setattr(Session, way, spoken(getattr(Session, way)))
        return asked

    return speak


def test_a_good_answer_is_its_json_and_nothing_else(purekv: Purekv, clip: Path, script: Any) -> None:
    asked = script(['Sure:\n```json\n{"animals": ["Küken"]}\n```'])
    code, out, err = purekv("ask", clip, "which animals?", "--schema", SCHEMA)
    assert (code, out) == (0, '{"animals": ["Küken"]}\n')
    (question,) = asked
    assert question.startswith("which animals?\n\nAnswer with JSON only")
    assert json.loads(question[question.index("{") :]) == json.loads(SCHEMA)
    assert "of text (a schema)" in err.splitlines()[0]


def test_a_bad_answer_is_asked_for_once_more(purekv: Purekv, clip: Path, script: Any) -> None:
    asked = script(["A dog and a cat.", '{"animals": ["dog", "cat"]}'])
    code, out, err = purekv("ask", clip, "which animals?", "--schema", SCHEMA)
    assert (code, out) == (0, '{"animals": ["dog", "cat"]}\n')
    assert len(asked) == 2
    assert "there is no JSON in it" in asked[1]
    assert "A dog" not in out + err


def test_two_bad_answers_fail_with_what_was_said(purekv: Purekv, clip: Path, script: Any) -> None:
    asked = script(["A dog.", '{"animals": "dog"}'])
    code, out, err = purekv("ask", clip, "which animals?", "--schema", SCHEMA, "--quiet")
    assert (code, out) == (1, "")
    assert len(asked) == 2
    said, what, _ = err.splitlines()
    assert said == '{"animals": "dog"}'
    assert "$.animals: 'dog' is not of type 'array'" in what


def test_of_several_questions_the_good_ones_are_lines(purekv: Purekv, clip: Path, script: Any) -> None:
    script(['{"animals": [1]}', "none", "no", "?", '{"animals": [3]}'])
    code, out, err = purekv("ask", clip, "a?", "-q", "b?", "-q", "c?", "--schema", SCHEMA)
    assert (code, out) == (1, '{"animals": [1]}\n{"animals": [3]}\n')
    assert "1 of 3 answers are not valid" in err


def test_the_record_holds_what_was_parsed(purekv: Purekv, clip: Path, script: Any) -> None:
    script(["at 0:02 a dog, at 0:09 a cat", '{"animals": []}'])
    code, out, _ = purekv("ask", clip, "a?", "--schema", SCHEMA, "--json")
    assert code == 0
    first, second = json.loads(out)["answers"]
    assert "parsed" not in first
    assert first["invalid"] == "there is no JSON in it"
    assert (second["parsed"], second["retry"]) == ({"animals": []}, True)


@pytest.mark.parametrize("flags", [[], ["--observe", "template"]], ids=["whole", "from the cache on disk"])
def test_a_model_that_cannot_write_json_fails(purekv: Purekv, clip: Path, flags: list[str]) -> None:
    """No script: the follow-up turn goes through the engine, also over a cache that another run left."""
    for _ in range(2 if flags else 1):
        code, out, err = purekv("ask", clip, "what?", "--schema", SCHEMA, "--json", *flags)
        assert code == 1
    first, second = json.loads(out)["answers"]
    assert second["retry"]
    assert second["stats"]["prompt_tokens"] > first["stats"]["prompt_tokens"]
    assert first["stats"]["video_tokens"] == second["stats"]["video_tokens"] > 0
    assert (first["stats"]["recall_seconds"] > 0) == bool(flags)
    assert second["text"] in err


def test_the_demo_model_cannot_write_json(clip: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["ask", str(clip), "what happens?", "-m", "demo", "--schema", SCHEMA, "--dense"])
    out, err = capfd.readouterr()
    assert (ended.value.code, out) == (1, "")
    assert "asked again: there is no JSON in it" in err.splitlines()[-2]


@pytest.mark.parametrize(
    ("schema", "what"), [("nowhere.json", "cannot read the schema"), ('{"type": "objekt"}', "is no JSON schema")]
)
def test_a_bad_schema_is_found_before_any_work(purekv: Purekv, tmp_path: Path, schema: str, what: str) -> None:
    code, out, err = purekv("ask", tmp_path / "no-such-video.mp4", "a?", "--schema", schema)
    assert (code, out) == (2, "")
    assert what in err


def test_times_in_answers_are_told_and_checked(purekv: Purekv, clip: Path, script: Any) -> None:
    script(["At 0:01 a dog, at 0:09 a cat."])
    code, out, err = purekv("ask", clip, "when?", "--start", "1", "--end", "3", "--json")
    assert code == 0
    assert json.loads(out)["answers"][0]["times"] == [
        {"text": "0:01", "seconds": 2.0, "in_clip": True, "nearest_frame": 2.0},
        {"text": "0:09", "seconds": 10.0, "in_clip": False, "nearest_frame": 2.5},
    ]
    assert json.loads(out)["sample"]["counted_from"] == 1.0
    assert "note: the answer says 0:09, but the clip the model saw goes from 0:00 to 0:02" in err
