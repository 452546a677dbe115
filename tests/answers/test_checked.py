"""Answers held against a schema, as a run hears them."""

import pytest

from purekv_cli.answers.checked import Checked
from purekv_cli.answers.schema import Schema
from purekv_cli.errors import InvalidAnswer
from purekv_cli.runtime.events import Answer, RunStats

STATS = RunStats(1, 1, 1.0, 1, 1, 1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1)


def checked() -> tuple[Checked, list[str], list[str]]:
    good: list[str] = []
    bad: list[str] = []
    schema = Schema.read('{"type": "integer"}')
    return Checked(schema, good.append, lambda answer: bad.append(answer.text)), good, bad


def answer(text: str, finish: str = "stop") -> Answer:
    return Answer("how many?", text, finish, STATS)  # type: ignore[arg-type]


def test_a_good_answer_is_asked_for_once() -> None:
    check, good, bad = checked()
    assert check.again(answer("3")) is None
    assert (good, bad) == (["3\n"], [])
    assert [verdict.facts for verdict in check.verdicts] == [{"parsed": 3}]
    check.finish()


def test_a_bad_answer_is_told_what_is_wrong_and_may_be_mended() -> None:
    check, good, bad = checked()
    assert "'three' is not of type 'integer'" in (check.again(answer('"three"')) or "")
    assert check.again(answer("3")) is None
    assert (good, bad) == (["3\n"], [])
    assert [verdict.facts for verdict in check.verdicts] == [
        {"invalid": "'three' is not of type 'integer'"},
        {"parsed": 3, "retry": True},
    ]
    check.finish()


def test_two_bad_answers_fail() -> None:
    check, good, bad = checked()
    assert check.again(answer("three")) is not None
    assert check.again(answer("thr", "length")) is None
    assert (good, bad) == ([], ["thr"])
    with pytest.raises(InvalidAnswer, match="there is no JSON in it; --max-tokens cut it off") as failed:
        check.finish()
    assert failed.value.exit_code == 1


def test_each_question_has_a_retry_of_its_own() -> None:
    check, good, bad = checked()
    for text in ("a", "b", "c", "4", "5"):  # failed; mended; good
        check.again(answer(text))
    assert (good, bad) == (["4\n", "5\n"], ["b"])
    assert [verdict.retry for verdict in check.verdicts] == [False, True, False, True, False]
    with pytest.raises(InvalidAnswer, match="1 of 3 answers are not valid"):
        check.finish()
