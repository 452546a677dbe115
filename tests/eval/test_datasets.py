"""Data files and the published layouts: what is asked, and what is said about every line that cannot be."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purekv_cli.errors import PureKVError, UnreadableInput, UsageError
from purekv_cli.eval.datasets import DataSet, load
from purekv_cli.eval.fragments import part_of, split_part

GOOD = {"video": "clip.mp4", "question": "Who barks?", "answer": "a dog"}
CHOICE = {"video": "clip.mp4", "question": "Who?", "options": ["a dog", "a cat", "a cow"], "answer": "B"}


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def jsonl(folder: Path, *lines: Any) -> Path:
    touch(folder / "clip.mp4")
    path = folder / "mine.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n", encoding="utf-8")
    return path


def only(found: DataSet) -> Any:
    assert not found.problems
    [item] = found.items
    return item


def test_a_line_of_ones_own(tmp_path: Path) -> None:
    found = load(jsonl(tmp_path, GOOD, "", {**GOOD, "question": "Where?", "id": 7, "type": "place", "suite": "hard"}))
    first, second = found.items
    assert (found.name, found.problems) == ("mine", ())
    assert (first.suite, first.type, first.truth, first.options) == ("mine", "question", "a dog", ())
    assert first.video == str(tmp_path / "clip.mp4")
    assert (second.suite, second.type, second.id) == ("hard", "place", "7")


def test_ids_that_are_not_given_do_not_depend_on_the_place_in_the_file(tmp_path: Path) -> None:
    other = {**GOOD, "question": "Where?"}
    before = {item.question: item.id for item in load(jsonl(tmp_path, GOOD, other)).items}
    after = {item.question: item.id for item in load(jsonl(tmp_path, other, GOOD)).items}
    assert before == after


@pytest.mark.parametrize("answer", ["B", "b", "(B)", "B.", "a cat", "B. a cat", "(B) a cat"])
def test_the_answer_may_be_letter_or_text(tmp_path: Path, answer: str) -> None:
    item = only(load(jsonl(tmp_path, {**CHOICE, "answer": answer})))
    assert (item.truth, item.options) == ("B", ("a dog", "a cat", "a cow"))


def test_letters_that_the_options_bring_along_are_taken_off(tmp_path: Path) -> None:
    options = ["A. a dog", "(B) a cat", "C: a cow"]
    assert only(load(jsonl(tmp_path, {**CHOICE, "options": options}))).options == ("a dog", "a cat", "a cow")
    kept = ["A. Smith", "A. Jones", "B. Brown"]  # initials, not letters in order
    assert only(load(jsonl(tmp_path, {**CHOICE, "options": kept}))).options == tuple(kept)


def test_a_part_of_a_video(tmp_path: Path) -> None:
    item = only(load(jsonl(tmp_path, {**GOOD, "start": 1.5, "end": 4})))
    assert item.video == f"{tmp_path / 'clip.mp4'}#t=1.5,4"
    assert split_part(item.video) == (tmp_path / "clip.mp4", 1.5, 4.0)


@given(st.sampled_from(["a.mp4", "/x y/b#1.mkv"]), st.none() | st.integers(0, 9999), st.none() | st.integers(0, 9999))
def test_parts_are_read_as_they_were_written(path: str, start: int | None, end: int | None) -> None:
    given_start, given_end = (None if n is None else n / 8 for n in (start, end))
    assert split_part(part_of(path, given_start, given_end)) == (Path(path), given_start, given_end)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"video": "clip.mp4", ', "no JSON"),
        ("[1, 2]", "no JSON object"),
        ({**GOOD, "video": "gone.mp4"}, "there is no file"),
        ({"video": "clip.mp4", "answer": "x"}, "it has no 'question'"),
        ({**GOOD, "question": 7}, "'question' is a number, not text"),
        ({**GOOD, "answer": None}, "'answer' is null, not text"),
        ({**GOOD, "answer": " "}, "'answer' is empty"),
        ({**GOOD, "type": ["a"]}, "'type' is a list, not text"),
        ({**GOOD, "start": "soon"}, "'start' is no time"),
        ({**GOOD, "start": 4, "end": 4}, "is empty"),
        ({**CHOICE, "options": "a dog"}, "'options' is not a list of texts"),
        ({**CHOICE, "options": ["a dog", 2]}, "'options' is not a list of texts"),
        ({**CHOICE, "options": ["a dog"]}, "1 entries, not 2 to 26"),
        ({**CHOICE, "answer": "D"}, "no option: give a letter from A to C"),
        ({**CHOICE, "answer": "a fish"}, "no option"),
        ({**CHOICE, "options": ["B", "A"], "answer": "A"}, "could be option A or B"),
        ({**CHOICE, "options": ["a dog", "a dog"], "answer": "a dog"}, "could be option A or B"),
        (GOOD, "the id '"),
        (b"\xff\xfe{}", "no JSON"),
    ],
    ids=str,
)
def test_a_bad_line_is_named_and_the_others_are_asked(tmp_path: Path, line: Any, what: str) -> None:
    path = jsonl(tmp_path, GOOD)
    with path.open("ab") as stream:
        stream.write(
            line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        )
        stream.write(b"\n" + json.dumps({**GOOD, "question": "Last?"}).encode())
    found = load(path)
    assert [item.question for item in found.items] == ["Who barks?", "Last?"]
    [problem] = found.problems
    assert problem.where == "mine.jsonl:2"
    assert what in problem.what


@given(st.lists(st.binary(max_size=60), max_size=5))
@settings(max_examples=60)
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("any") / "any.jsonl"
    path.write_bytes(b"\n".join(lines))
    assert load(path).items == ()


def test_what_is_no_data(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match="does not exist"):
        load(tmp_path / "gone.jsonl")
    with pytest.raises(UnreadableInput, match=r"no \.jsonl file"):
        load(tmp_path)
    with pytest.raises(UnreadableInput, match="no data file that is known"):
        load(touch(tmp_path / "table.xlsx"))
    jsonl(tmp_path, GOOD)
    assert load(tmp_path).name == "mine"  # a folder with one of them
    touch(tmp_path / "more.jsonl")
    with pytest.raises(UnreadableInput, match=r"2 \.jsonl files"):
        load(tmp_path)


# The published layouts, with invented content.


def test_video_mme_as_a_json_export(tmp_path: Path) -> None:
    record = {
        "video_id": "001",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Kitchens",
        "url": "https://example.org",
        "videoID": "aBc-1_2",
        "question_id": "001-1",
        "task_type": "Counting Problem",
        "question": "How many pots boil?",
        "options": ["A. One.", "B. Two.", "C. Three.", "D. Four."],
        "answer": "C",
    }
    path = write(tmp_path / "videomme" / "test.json", [record])
    touch(tmp_path / "data" / "aBc-1_2.mp4")
    for given_path in (tmp_path, path):
        item = only(load(given_path))
        assert (item.suite, item.type, item.id, item.truth) == ("short", "Counting Problem", "001-1", "C")
        assert item.options == ("One.", "Two.", "Three.", "Four.")
        assert item.video == str(tmp_path / "data" / "aBc-1_2.mp4")


def test_video_mme_as_published_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "videomme" / "test-00000-of-00001.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="pyarrow is not installed") as raised:
        load(tmp_path)
    assert "JSON export" in raised.value.hint


def test_mvbench_with_a_part_and_with_frames(tmp_path: Path) -> None:
    asked = {"question": "What next?", "candidates": ["He sits.", "He runs."], "answer": "He runs."}
    write(tmp_path / "json" / "action_sequence.json", [{"video": "AB1.mp4", **asked, "start": 2.5, "end": 6.0}])
    write(tmp_path / "json" / "episodic_reasoning.json", [{"video": "show_seg01", **asked, "start": 1, "end": 3.5}])
    write(
        tmp_path / "json" / "character_order.json",
        [{"video": "v.mp4", **asked, "candidates": ["b", "a"], "answer": "a"}],
    )
    star = touch(tmp_path / "video" / "star" / "Charades_v1_480" / "AB1.mp4")
    frames = touch(tmp_path / "video" / "tvqa" / "frames_fps3_hq" / "show_seg01" / "00001.jpg").parent
    touch(tmp_path / "video" / "perception" / "videos" / "v.mp4")
    found = load(tmp_path)
    assert not found.problems
    order, sequence, episode = sorted(found.items, key=lambda item: ["c", "a", "e"].index(item.type[0]))
    assert (order.type, order.truth) == ("character_order", "B")  # by its text, although it looks like a letter
    assert (sequence.video, sequence.truth, sequence.id) == (f"{star}#t=2.5,6", "B", "action_sequence:0")
    assert episode.video == f"{frames}#t=3,10.5"


def test_longvideobench(tmp_path: Path) -> None:
    record = {
        "video_id": "xYz",
        "question": "When the door opens, what falls?",
        "question_wo_referring_query": "What falls?",
        "candidates": ["a cup", "a book", "a hat", "a key", "nothing"],
        "correct_choice": 1,
        "position": [10],
        "topic_category": "Life",
        "question_category": "E2O",
        "level": "L1-Perception",
        "id": "xYz_0",
        "video_path": "xYz.mp4",
        "subtitle_path": "xYz_en.json",
        "duration_group": 60,
        "starting_timestamp_for_subtitles": 0,
        "duration": 42.0,
        "view_count": 3,
    }
    write(tmp_path / "lvb_val.json", [record, {**record, "id": "xYz_1", "correct_choice": 9}])
    touch(tmp_path / "videos" / "xYz.mp4")
    found = load(tmp_path)
    [item] = found.items
    assert (item.suite, item.type, item.truth, item.id) == ("60 s", "E2O", "B", "xYz_0")
    [problem] = found.problems
    assert problem.where == "lvb_val.json, record 2"
    assert "9" in problem.what


def test_mlvu_by_task(tmp_path: Path) -> None:
    record = {
        "video": "film_3.mp4",
        "duration": 246,
        "question": "What colour is the coat?",
        "candidates": ["Yellow", "Red", "Green", "Blue"],
        "answer": "Red",
        "question_type": "plotQA",
    }
    write(tmp_path / "json" / "1_plotQA.json", [record])
    write(tmp_path / "json" / "9_summary.json", [{"video": "film_3.mp4", "question": "Sum up.", "answer": "All."}])
    touch(tmp_path / "video" / "1_plotQA" / "film_3.mp4")
    item = only(load(tmp_path))
    assert (item.suite, item.type, item.truth, item.id) == ("MLVU", "plotQA", "B", "1_plotQA:0")


def test_avsd_asks_the_last_question_of_a_dialogue(tmp_path: Path) -> None:
    turns = [
        {"question": "Is it indoors?", "answer": "Yes, in a kitchen."},
        {"question": "Does he eat?", "answer": "No, he only cooks."},
    ]
    hidden = [*turns, {"question": "Is he alone?", "answer": "__UNDISCLOSED__"}]
    dialogs = [
        {"image_id": "AB1CD", "caption": "A man cooks.", "summary": "He cooks soup.", "dialog": turns},
        {"image_id": "AB1CD", "caption": "A man cooks.", "summary": "", "dialog": hidden},
    ]
    write(tmp_path / "valid_set4DSTC7-AVSD.json", {"type": "dialogs", "version": "1", "dialogs": dialogs})
    write(tmp_path / "train_set4DSTC7-AVSD.json", {"dialogs": []})
    touch(tmp_path / "Charades_v1_480" / "AB1CD.mp4")
    found = load(tmp_path)
    [item] = found.items
    assert item.talk == (("Is it indoors?", "Yes, in a kitchen."),)
    assert item.question == "Does he eat?"
    assert (item.truth, item.id, item.type) == ("No, he only cooks.", "AB1CD", "dialogue")
    assert "undisclosed" in found.problems[0].what


@pytest.mark.parametrize("name", ["lvb_val.json", "json/1_plotQA.json", "videomme/x.json", "valid_AVSD.json"])
@pytest.mark.parametrize("text", ["{", "7", '{"dialogs": 3}', "[1]"])
def test_an_annotation_file_of_another_kind_is_an_error_of_its_own(tmp_path: Path, name: str, text: str) -> None:
    touch(tmp_path / name).write_text(text)
    with pytest.raises(PureKVError):
        load(tmp_path)


def test_a_record_whose_values_are_of_no_use_is_a_problem(tmp_path: Path) -> None:
    for name in ("lvb_val.json", "json/1_plotQA.json", "json/action_count.json", "videomme/x.json"):
        folder = tmp_path / name.replace("/", "-")
        write(folder / name, [{}, {"candidates": 3, "video": None, "options": None, "correct_choice": "x"}])
        found = load(folder)
        assert not found.items
        assert len(found.problems) == 2
