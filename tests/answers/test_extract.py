"""JSON in what a model says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.answers.extract import values

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
STRUCTURED = JSON.filter(lambda value: isinstance(value, list | dict))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', [{"a": 1}]),
        (" 3\n", [3]),
        ('Sure! Here it is:\n```json\n{"a": 1}\n```\nAnything else?', [{"a": 1}, {"a": 1}]),
        ("```\n[1]\n```", [[1], [1]]),
        ('It is {"a": [1, 2]}, or else {"b": {}}.', [{"a": [1, 2]}, {"b": {}}]),
        ('[0:12] a {thing}, then {"a": 1}', [{"a": 1}]),
        ('{"outer": {"a": 1}, oops}', []),
        ('{"a": [1, 2', []),
        ("{'a': 1}", []),
        ('{"a": NaN}', []),
        ("NaN", []),
        ("There is a dog.", []),
        ("", []),
        ("[" * 100_000, []),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_found(text: str, found: list[Any]) -> None:
    assert list(values(text)) == found


@given(STRUCTURED, st.sampled_from(["{}", "Here: {} I hope.", "```json\n{}\n```", "a\n```\n{}\n```\nb", "  {}\n\n"]))
def test_json_is_found_with_whatever_is_around_it(value: Any, around: str) -> None:
    written = json.dumps(value)
    assert next(values(around.replace("{}", written))) == value


@given(JSON)
def test_alone_it_is_all_there_is(value: Any) -> None:
    assert list(values(json.dumps(value, indent=1))) == [value]


@given(st.text(alphabet='{}[]":,1a \n`', max_size=80))
def test_whatever_is_said_what_is_found_is_json(text: str) -> None:
    for value in values(text):
        assert json.loads(json.dumps(value)) == value
