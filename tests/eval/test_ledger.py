"""The file of results: a run goes on from it, and never mixes what does not belong together."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purekv_cli.errors import UsageError
from purekv_cli.eval.ledger import Ledger

SETTINGS = {"model": "demo", "sample": {"fps": 2.0, "frames": None}}
KEY = ("video", "arm")


def row(video: str, arm: str = "dense", right: bool = True) -> dict[str, object]:
    return {"video": video, "arm": arm, "right": right}


def opened(path: Path | None, settings: dict[str, object] = SETTINGS) -> Ledger:
    return Ledger(path, settings, KEY)


def test_what_was_added_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with opened(path) as ledger:
        ledger.add([row("a"), row("b")])
        assert len(path.read_text().splitlines()) == 3  # on disk before it is closed
        ledger.add([row("a", "random", False)])
    with opened(path) as ledger:
        assert list(ledger.done) == [("a", "dense"), ("b", "dense"), ("a", "random")]
        assert ledger.done["a", "random"] == row("a", "random", False)
        ledger.add([row("c")])
    assert json.loads(path.read_text().splitlines()[0])["settings"] == SETTINGS
    with opened(path) as ledger:
        assert len(ledger.done) == 4


def test_without_a_file_it_remembers() -> None:
    with opened(None) as ledger:
        ledger.add([row("a")])
        assert ledger.done == {("a", "dense"): row("a")}


def test_of_the_same_key_the_last_line_counts(tmp_path: Path) -> None:
    with opened(tmp_path / "r.jsonl") as ledger:
        ledger.add([row("a")])
        ledger.add([row("a", right=False)])
    with opened(tmp_path / "r.jsonl") as ledger:
        assert list(ledger.done.values()) == [row("a", right=False)]


@given(st.data())
@settings(max_examples=80)
def test_wherever_a_crash_cuts_the_file_whole_lines_stay(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("torn") / "r.jsonl"
    with opened(path) as ledger:
        ledger.add([row("é"), row("b")])
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    with opened(path) as ledger:
        assert len(ledger.done) == max(0, whole[:cut].count(b"\n") - 1)
        ledger.add([row("é"), row("b")])
    assert path.read_bytes().startswith(whole.splitlines()[0])
    with opened(path) as ledger:
        assert set(ledger.done) == {("é", "dense"), ("b", "dense")}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({**SETTINGS, "model": "7b"}, "model was 'demo', now it is '7b'"),
        ({**SETTINGS, "sample": {"fps": 1.0, "frames": None}}, "sample was"),
        ({"model": "demo"}, "sample was"),
        ({**SETTINGS, "questions": 3}, "questions was None"),
    ],
)
def test_other_settings_are_refused_and_the_file_is_left_alone(
    tmp_path: Path, changed: dict[str, object], said: str
) -> None:
    path = tmp_path / "r.jsonl"
    with opened(path) as ledger:
        ledger.add([row("a")])
    before = path.read_bytes() + b'{"torn'
    path.write_bytes(before)
    with pytest.raises(UsageError, match=said):
        opened(path, changed)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["A letter to my aunt", "A letter\nto my aunt\n", '{"a": 1}\n', "[]\n", "\n"])
def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match="line 1"):
        opened(path)
    assert path.read_text() == text


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with opened(path) as ledger:
        ledger.add([row("a")])
    path.write_bytes(path.read_bytes() + b'{"video": \n{"video": "b", "arm": "x"}\n')
    with pytest.raises(UsageError, match="line 3"):
        opened(path)


def test_files_of_the_same_settings_may_be_put_together(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with opened(tmp_path / name) as ledger:
            ledger.add([row(name)])
    both = tmp_path / "both"
    both.write_bytes((tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes())
    with opened(both) as ledger:
        assert set(ledger.done) == {("a", "dense"), ("b", "dense")}


def test_one_run_at_a_time_writes_a_file(tmp_path: Path) -> None:
    with opened(tmp_path / "r.jsonl"), pytest.raises(UsageError, match="another run"):
        opened(tmp_path / "r.jsonl")
    with opened(tmp_path / "r.jsonl") as ledger:
        assert not ledger.done


def test_file_names_that_are_no_text_come_back_as_they_were(tmp_path: Path) -> None:
    with opened(tmp_path / "r.jsonl") as ledger:
        ledger.add([row("caf\udce9.mp4")])
    with opened(tmp_path / "r.jsonl") as ledger:
        assert ("caf\udce9.mp4", "dense") in ledger.done


@pytest.mark.parametrize("name", ["no/such/folder/r.jsonl", "."])
def test_what_cannot_be_written_is_the_users_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot write"):
        opened(tmp_path / name)
