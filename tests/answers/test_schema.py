"""Schemas: found to be one before any work, and what an answer must be under them."""

import json
from pathlib import Path

import pytest

from purekv_cli.answers.schema import Invalid, Schema
from purekv_cli.errors import UsageError

PEOPLE = json.dumps(
    {
        "type": "object",
        "required": ["people"],
        "properties": {"people": {"type": "array", "items": {"$ref": "#/$defs/person"}}},
        "$defs": {"person": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}},
    }
)


def test_a_schema_is_a_file_or_written_out(tmp_path: Path) -> None:
    path = tmp_path / "people.json"
    path.write_text(PEOPLE, encoding="utf-8-sig")
    assert Schema.read(str(path)).text == Schema.read(f"  {PEOPLE}").text == PEOPLE
    assert PEOPLE in Schema.read(str(path)).form


@pytest.mark.parametrize(
    ("wish", "what"),
    [
        ("nowhere.json", "cannot read the schema nowhere.json"),
        (".", "cannot read"),
        ('{"type": ', "is not JSON"),
        ('{"type": "objekt"}', "no JSON schema: .*objekt"),
        ('{"pattern": "["}', "no JSON schema"),
        ('{"$ref": "https://example.org/other.json"}', "another document"),
        ('{"$ref": "#/$defs/person"}', r"#/\$defs/person, which is not in it"),
        ('{"a":' * 100_000, "deeply"),
    ],
    ids=["missing", "folder", "torn", "type", "pattern", "remote", "dangling", "deep"],
)
def test_what_is_no_schema_is_refused(wish: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        Schema.read(wish)


def test_a_file_must_hold_a_schema(tmp_path: Path) -> None:
    for content, what in ((b"\xff\xfe\x00", "is not text"), (b"3", "no JSON schema"), (b"", "is not JSON")):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(UsageError, match=what):
            Schema.read(str(tmp_path / "a.json"))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jsonschema", None)
    with pytest.raises(UsageError) as refused:
        Schema.read(PEOPLE)
    assert refused.value.hint == 'pip install "purekv[schema]"'


@pytest.mark.parametrize(
    "answer",
    [
        '{"people": [{"name": "Ann"}]}',
        'Of course: {"people": [{"name": "Ann"}]}.',
        '[1]\n{"people": [{"name": "Ann"}]}',
    ],
)
def test_a_valid_answer_is_its_json(answer: str) -> None:
    assert Schema.read(PEOPLE).value(answer) == {"people": [{"name": "Ann"}]}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("Ann is there.", "there is no JSON in it"),
        ("{}", "'people' is a required property"),
        ('{"people": [{"name": "Ann"}, {}]}', r"\$\.people\[1\]: 'name' is a required property"),
        ('{"people": "' + "x" * 900 + '"}', r"\.\.\.$"),
    ],
)
def test_a_bad_answer_says_why(answer: str, why: str) -> None:
    with pytest.raises(Invalid, match=why) as bad:
        Schema.read(PEOPLE).value(answer)
    assert len(str(bad.value)) <= 300


def test_a_schema_that_never_ends_is_no_crash() -> None:
    with pytest.raises(Invalid, match="deeply"):
        Schema.read('{"$ref": "#"}').value("{}")


def test_parts_with_addresses_of_their_own_are_followed() -> None:
    parts = {
        "$id": "https://a.org/x",
        "$defs": {"n": {"$id": "y", "$defs": {"m": {"type": "integer"}}, "$ref": "#/$defs/m"}},
    }
    schema = Schema.read(json.dumps({**parts, "$ref": "#/$defs/n"}))
    assert schema.value("3") == 3
    with pytest.raises(Invalid, match="not of type 'integer'"):
        schema.value('"three"')
