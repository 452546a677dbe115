"""`purekv eval` from the command line to its files. Grading is made up, but for one test with the model."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from purekv_cli.app import main
from purekv_cli.errors import OutOfResources
from purekv_cli.eval import work
from purekv_cli.eval.arms import Arm
from purekv_cli.eval.records import Graded, Item
from purekv_cli.method.policies import POLICIES
from tests.clips import Recipe, make
from tests.eval.graded import graded
from tests.test_app import HEAVY, imported_by

Purekv = Callable[..., tuple[int, str, str]]


@pytest.fixture
def purekv(capfd: pytest.CaptureFixture[str]) -> Purekv:
    """Runs `purekv eval`: (exit code, stdout, stderr)."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["eval", *map(str, arguments)])
        out, err = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return run


class Graders:
    """Made-up ways: dense is always right, others never at 0.05; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[str, ...], tuple[Arm, ...]]] = []
        self.loads = 0
        self.before: Callable[[str], None] = lambda video: None

    def load(self, *_: Any) -> "Graders":
        self.loads += 1
        return self

    def grade(self, items: Sequence[Item], arms: Sequence[Arm], frames: Any = None) -> Iterator[Graded]:
        assert frames.pixels.ndim == 4
        self.before(items[0].video)
        self.asked.append((tuple(item.id for item in items), tuple(arms)))
        for arm in arms:
            for item in items:
                yield graded(item, arm, right=arm.budget != "0.05")


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch) -> Graders:
    graders = Graders()
    monkeypatch.setattr(work, "load_way", graders.load)
    return graders


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        make(folder, Recipe(name, frames=12))
    (folder / "text.mp4").write_text("This is no video. " * 50)
    return folder


def data(clips: Path, *lines: dict[str, Any] | str) -> Path:
    path = clips / "mine.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    return path


def about(video: str, question: str = "Who?", **more: Any) -> dict[str, Any]:
    return {"video": video, "question": question, "answer": "a dog", **more}


def test_help_is_light() -> None:
    assert not imported_by("eval", "--help") & set(HEAVY)


def test_a_data_file_with_all_its_results(purekv: Purekv, way: Graders, clips: Path, tmp_path: Path) -> None:
    path = data(clips, about("a.mp4"), about("b.mp4"), about("a.mp4", "Where?", type="place"))
    files = [tmp_path / name for name in ("found.json", "found.md", "found.png", "found.html")]
    flags = ("--export-json", "--export-markdown", "--plot", "--report")
    named = [x for pair in zip(flags, files, strict=True) for x in pair]
    code, out, err = purekv(path, "-m", "demo", "--policy", "purekv,random", "--budget", "0.2,0.05", *named)
    assert code == 0, err
    assert out.startswith("## mine\n")
    assert "| random | 100.0 (43.9 to 100.0) | 0.0 (0.0 to 56.1) |" in out
    assert "2 of 2 videos" in err
    assert err.count("written") == 4
    record = json.loads(files[0].read_text())
    assert (record["model"], record["way"], record["data"], record["videos"]) == ("demo", "engine", "mine", 2)
    assert len(record["arms"]) == 1 + 2 * 2 * 3  # dense, then policies x budgets x moments
    assert out in files[1].read_text()
    assert files[2].stat().st_size > 5000
    assert "<td>100.0 (43.9 to 100.0)</td>" in files[3].read_text()
    assert [len(ids) for ids, _ in way.asked] == [2, 1]  # all questions of a video together


def test_json_is_all_of_stdout_and_quiet_leaves_stderr_empty(purekv: Purekv, way: Graders, clips: Path) -> None:
    code, out, err = purekv(data(clips, about("a.mp4")), "-m", "demo", "--json", "--quiet")
    assert (code, err) == (0, "")
    assert json.loads(out)["schema_version"] == 1


def test_bad_lines_are_named_skipped_and_counted(purekv: Purekv, way: Graders, clips: Path) -> None:
    choice = {"options": ["a dog", "a cat"]}
    path = data(
        clips,
        about("a.mp4", id="1"),
        '{"video": ',
        about("gone.mp4"),
        about("b.mp4", **choice) | {"answer": "C"},
        about("b.mp4", id="1"),
        about("text.mp4", id="2"),
        about("b.mp4", id="3"),
    )
    code, out, err = purekv(path, "-m", "demo", "--policy", "random", "--when", "known")
    assert code == 6
    assert "2 videos, 2 questions" in out
    for where, what in (
        ("mine.jsonl:2", "no JSON"),
        ("mine.jsonl:3", "there is no file"),
        ("mine.jsonl:4", "no option"),
        ("mine.jsonl:5", "the id '1' is already that of mine.jsonl:1"),
        ("text.mp4", "video"),
    ):
        [line] = [line for line in err.splitlines() if line.startswith(where)]
        assert what in line
    assert "5 entries or videos could not be asked" in err


def test_nothing_left_to_ask_is_a_usage_error(purekv: Purekv, way: Graders, clips: Path) -> None:
    code, out, err = purekv(data(clips, "{", about("gone.mp4")), "-m", "demo")
    assert (code, out, way.loads) == (2, "", 0)
    assert "none of 2 entries" in err


RESUMABLE = ("-m", "demo", "--policy", "random", "--budget", "0.2", "--when", "known")


def test_a_run_goes_on_where_it_was(purekv: Purekv, way: Graders, clips: Path, tmp_path: Path) -> None:
    path, results = data(clips, about("a.mp4"), about("b.mp4"), about("c.mp4")), tmp_path / "r.jsonl"

    def stop(video: str) -> None:
        if video.endswith("c.mp4"):
            raise KeyboardInterrupt

    way.before = stop
    code, out, err = purekv(path, *RESUMABLE, "-o", results)
    assert code == 130
    assert "2 videos, 2 questions" in out  # what was done is shown
    assert "interrupted" in err
    way.before, way.asked = lambda video: None, []
    results.write_bytes(results.read_bytes()[:-9])  # and the last line was torn
    code, again, _ = purekv(path, *RESUMABLE, "-o", results)
    assert code == 0
    assert len(way.asked) == 2  # the torn video and the one that was never begun
    loads = way.loads
    code, third, _ = purekv(path, *RESUMABLE, "-o", results)
    assert (code, third, way.loads) == (0, again, loads)  # nothing to do: no model is loaded


def test_more_arms_are_added_and_compared_with_dense(purekv: Purekv, way: Graders, clips: Path, tmp_path: Path) -> None:
    path, results = data(clips, about("a.mp4")), tmp_path / "r.jsonl"
    purekv(path, *RESUMABLE, "-o", results)
    purekv(path, *RESUMABLE, "-o", results, "--policy", "random,knorm")
    [_, (_, second)] = way.asked
    assert [arm.policy for arm in second] == ["dense", "knorm"]


def test_results_do_not_depend_on_where_the_data_lie(purekv: Purekv, way: Graders, clips: Path, tmp_path: Path) -> None:
    purekv(data(clips, about("a.mp4")), *RESUMABLE, "-o", tmp_path / "r.jsonl")
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "a.mp4").write_bytes((clips / "a.mp4").read_bytes())
    code, _, _ = purekv(data(moved, about("a.mp4")), *RESUMABLE, "-o", tmp_path / "r.jsonl")
    assert (code, len(way.asked)) == (0, 1)


@pytest.mark.parametrize(
    ("again", "more", "said"),
    [
        (about("a.mp4", id="1"), ("--fps", "1"), "sample was"),
        (about("a.mp4", id="1"), ("--max-tokens", "5"), "max_tokens was 96"),
        (about("a.mp4", id="1"), ("--dtype", "float16"), "dtype was"),
        (about("a.mp4", id="1"), ("--way", "replay"), "way was 'engine'"),
        (about("a.mp4", "Why?", id="1"), (), "was another one"),
        (about("a.mp4", id="1") | {"answer": "a cat"}, (), "was another one"),
    ],
)
def test_changed_settings_or_questions_stop_before_any_work(
    purekv: Purekv, way: Graders, clips: Path, tmp_path: Path, again: dict[str, Any], more: tuple[str, ...], said: str
) -> None:
    first = ("--dtype", "float32") if "--dtype" not in more else ("--dtype", "bfloat16")
    purekv(data(clips, about("a.mp4", id="1")), *RESUMABLE, *first, "-o", tmp_path / "r.jsonl")
    code, out, err = purekv(
        data(clips, again), *RESUMABLE, *(first if "--dtype" not in more else ()), *more, "-o", tmp_path / "r.jsonl"
    )
    assert (code, out, len(way.asked)) == (2, "", 1)
    assert said in err


@pytest.mark.parametrize("error", [OutOfResources("out of memory", "x"), MemoryError()], ids=lambda e: type(e).__name__)
def test_one_video_that_fails_does_not_stop_the_others(
    purekv: Purekv, way: Graders, clips: Path, error: BaseException
) -> None:
    def fail(video: str) -> None:
        if video.endswith("a.mp4"):
            raise error

    way.before = fail
    code, out, err = purekv(data(clips, about("a.mp4"), about("b.mp4")), *RESUMABLE)
    assert code == 6
    assert "1 video, 1 question" in out
    assert "a.mp4: out of memory" in err


@pytest.mark.parametrize(
    ("arguments", "what", "hint"),
    [
        (["clipworld", "--policy", "purkev"], "purkev", "purekv"),
        (["clipworld", "--policy", ","], "no policy", "policies"),
        (["clipworld", "--budget", "2"], "'2'", "0.2"),
        (["clipworld", "--when", "later"], "later", "unknown"),
        (["clipworld", "--suite", "mediums"], "mediums", "medium"),
        (["clipworld", "--propagate", "many"], "many", "4:0.35"),
        (["clipworld", "--first-seed", "999999"], "held out", "1000000"),
        (["clipworld", "--fps", "2"], "--fps", "Leave it out"),
        (["clipworld", "--plot", "x.jpg"], ".png", "x.png"),
        (["clipworld", "-o", "no/such/folder/r.jsonl"], "cannot write", "folder"),
        (["mine.jsonl", "--clips", "3"], "--clips", "Leave it out"),
        (["mine.jsonl", "--suite", "hard", "-m", "demo"], "hard", "mine"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_two_lines_before_any_work(
    purekv: Purekv,
    way: Graders,
    clips: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    what: str,
    hint: str,
) -> None:
    data(clips, about("a.mp4"))
    monkeypatch.chdir(clips)
    code, out, err = purekv(*arguments)
    first, second = err.splitlines()
    assert (code, out, way.asked) == (2, "", [])
    assert what in first
    assert hint in second


def test_a_missing_data_file_is_unreadable_input(purekv: Purekv) -> None:
    assert purekv("gone.jsonl")[0] == 3


def test_all_policies_and_every_way_to_read_the_prompt(purekv: Purekv, way: Graders, clips: Path) -> None:
    path = data(clips, about("a.mp4"))
    purekv(path, "-m", "demo", "--policy", "all", "--budget", "1,0.2", "--when", "prompt,unknown")
    [(_, arms)] = way.asked
    assert arms[0] == Arm("dense", "1", "unknown")
    assert {arm.policy for arm in arms} == set(POLICIES)
    assert len(arms) == 1 + 2 * (len(POLICIES) - 1)  # at a budget of 1 a policy is dense
    purekv(
        path,
        "-m",
        "demo",
        "--policy",
        "random",
        "--budget",
        "1,0.2",
        "--when",
        "known",
        "--sparse",
        "--propagate",
        "off,2:0.5",
    )
    found = [(arm.policy, arm.budget, arm.propagate, arm.sparse) for arm in way.asked[1][1]]
    assert found == [
        ("dense", "1", None, False),
        ("random", "0.2", None, False),
        ("random", "1", "2:0.5", False),
        ("random", "0.2", "2:0.5", False),
        ("random", "1", None, True),
        ("random", "0.2", None, True),
        ("random", "1", "2:0.5", True),
        ("random", "0.2", "2:0.5", True),
        ("dense", "1", None, True),
    ]


def test_suites_and_a_limit_choose_videos(purekv: Purekv, way: Graders, clips: Path) -> None:
    lines = [about(f"{name}.mp4", suite="easy" if name == "c" else "hard") for name in "abc"]
    purekv(data(clips, *lines), *RESUMABLE, "--limit", "1")
    assert len(way.asked) == 2
    way.asked.clear()
    purekv(data(clips, *lines), *RESUMABLE, "--suite", "hard")
    assert len(way.asked) == 2


def test_clipworld_with_the_embedded_model(purekv: Purekv, tmp_path: Path) -> None:
    arguments = ("clipworld", "--suite", "short", "--questions", "1", "--policy", "random", "--workers", "2")
    arguments += ("--budget", "0.2", "--when", "unknown", "--dtype", "float32", "--device", "cpu")
    code, out, err = purekv(*arguments, "--clips", "1", "-o", tmp_path / "r.jsonl")  # one clip: no processes
    assert code == 0, err
    assert "1 video, 1 question" in out
    code, out, err = purekv(*arguments, "--clips", "3", "-o", tmp_path / "r.jsonl")
    assert code == 0, err
    assert "3 videos, 3 questions of 1 type, 3 narrations among them" in out
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert (lines[0]["settings"]["way"], lines[0]["settings"]["model"]) == ("replay", "demo")
    dense, random = lines[1:3]
    assert dense["right"]
    assert dense["kv_bytes_kept"] == dense["kv_bytes_full"]
    assert 0.15 < random["kv_bytes_kept"] / random["kv_bytes_full"] < 0.25
    assert random["kl"] > dense["kl"] == 0
    assert [line["video"] for line in lines[1::2]] == [f"clipworld/short/{seed}" for seed in range(20_000, 20_003)]


def test_a_model_that_cannot_be_replayed_names_the_other_way(purekv: Purekv, way: Graders, clips: Path) -> None:
    from purekv_cli.runtime.weights import Unsupported

    def refuse(video: str) -> None:
        raise Unsupported("its layers are of an unknown kind")

    way.before = refuse
    code, _, err = purekv(data(clips, about("a.mp4")), *RESUMABLE, "--way", "replay")
    assert code == 2
    assert "--way engine" in err
