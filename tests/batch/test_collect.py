"""What a command line means: folders, patterns, lists, jobs, shards."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.batch.collect import collect, read_questions, shard_of
from purekv_cli.batch.job import Item, jobs_of
from purekv_cli.errors import UnreadableInput, UsageError
from tests.clips import Recipe, audio_only, make


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.MKV", "notes.txt", ".hidden.mp4", "deep/er/c.webm", ".cache/d.mp4", "deep/e [1].mov"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return tmp_path / "tree"


def names(*paths: object, **more: bool) -> list[str]:
    return [Path(item.video).name for item in collect([str(p) for p in paths], ["why?"], **more).items]


def test_a_folder_is_searched_to_the_bottom(tree: Path) -> None:
    assert names(tree) == ["a.MKV", "b.mp4", "e [1].mov", "c.webm"]


def test_a_pattern(tree: Path) -> None:
    assert names(tree / "*.mp4") == ["b.mp4"]
    assert names(tree / "**" / "*.webm") == ["c.webm"]
    assert names(tree / "d*") == ["e [1].mov", "c.webm"]


def test_a_file_with_brackets_in_its_name_is_no_pattern(tree: Path) -> None:
    assert names(tree / "deep" / "e [1].mov") == ["e [1].mov"]


def test_a_file_is_taken_whatever_its_name(tree: Path) -> None:
    assert names(tree / "notes.txt") == ["notes.txt"]


def test_the_same_video_twice_is_asked_once(tree: Path) -> None:
    wanted = collect([str(tree), str(tree / "b.mp4"), f"{tree}/deep/../b.mp4"], ["why?"])
    assert len(wanted.items) == 4
    assert wanted.notes == ("2 of 6 questions are there more than once and asked once",)


def test_a_relative_path_is_the_same_from_everywhere(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert collect(["b.mp4"], ["why?"]) == collect([str(tree / "b.mp4")], ["why?"])


def test_probing_looks_past_names(tmp_path: Path) -> None:
    make(tmp_path, Recipe(frames=4)).path.rename(tmp_path / "recording.bin")
    audio_only(tmp_path / "sound.mp4")
    (tmp_path / "text.mp4").write_text("no video " * 99)
    assert names(tmp_path, probing=True) == ["recording.bin"]


def test_a_folder_of_pictures_is_one_clip(tmp_path: Path) -> None:
    (tmp_path / "frame1.png").write_text("x")
    assert [item.video for item in collect([str(tmp_path)], ["why?"]).items] == [str(tmp_path)]


@pytest.mark.parametrize(
    ("path", "error"), [("missing.mp4", UnreadableInput), ("*.nothing", UsageError), ("empty", UsageError)]
)
def test_what_was_typed_must_be_there(tmp_path: Path, path: str, error: type[Exception]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(error):
        collect([str(tmp_path / path)], ["why?"])


def test_without_a_question_nothing_is_asked(tree: Path) -> None:
    with pytest.raises(UsageError, match="no question"):
        collect([str(tree)], [])


def test_a_list_holds_paths_and_jobs(tmp_path: Path) -> None:
    lines = [
        "a.mp4\n",
        "\n",
        '{"video": "b.mp4", "question": "who?", "id": 7, "start": "1:30", "end": 95, "answer": "me"}\n',
        '{"video": "c.mp4"}',
    ]
    here = Path.cwd()
    assert collect(["-"], ["why?", "how?"], lines).items == (
        Item(f"{here}/a.mp4", "why?"),
        Item(f"{here}/a.mp4", "how?"),
        Item(f"{here}/b.mp4", "who?", 7, 90.0, 95.0),
        Item(f"{here}/c.mp4", "why?"),
        Item(f"{here}/c.mp4", "how?"),
    )


def test_a_file_of_jobs_is_a_list(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(json.dumps({"video": "gone.mp4", "question": "why?"}) + "\n")
    assert [item.question for item in collect([str(jobs)], []).items] == ["why?"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"video": "a.mp4"', "line 2 is not valid JSON"),
        ('{"question": "why?"}', "line 2 names no video"),
        ('{"video": "a.mp4", "question": 3}', "line 2: the question is no text"),
        ('{"video": "a.mp4", "question": "why?", "id": true}', "line 2: the id"),
        ('{"video": "a.mp4", "question": "why?", "strat": 3}', "line 2: there is no 'strat'"),
        ('{"video": "a.mp4", "question": "why?", "start": "soon"}', "line 2: cannot read the time"),
        ('{"video": "a.mp4"}', "line 2 asks nothing"),
    ],
)
def test_a_job_that_cannot_be_read_is_named(line: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        collect(["-"], [], ['{"video": "a.mp4", "question": "why?"}', line])


def test_questions_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("# about people\nwho?\n\n  why?  \n")
    assert read_questions(tmp_path / "q.txt") == ["who?", "why?"]


@given(st.sets(st.text(min_size=1), max_size=40), st.integers(1, 6))
def test_shards_part_the_videos_and_keep_questions_together(videos: set[str], parts: int) -> None:
    items = [Item(video, question) for video in sorted(videos) for question in ("who?", "why?")]
    shards = [shard_of(items, f"{part}/{parts}") for part in range(1, parts + 1)]
    assert sorted((i.video, i.question) for shard in shards for i in shard) == [(i.video, i.question) for i in items]
    assert all(len(job.items) == 2 for shard in shards for job in jobs_of(shard))


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_shard_that_cannot_be(shard: str) -> None:
    with pytest.raises(UsageError):
        shard_of([], shard)


def test_questions_about_one_clip_are_one_job_and_another_range_is_another_clip() -> None:
    items = [Item("a", "1"), Item("b", "1"), Item("a", "2"), Item("a", "1", start=3.0)]
    assert [[i.question for i in job.items] for job in jobs_of(items)] == [["1", "2"], ["1"], ["1"]]
