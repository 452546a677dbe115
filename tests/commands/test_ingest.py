"""What a video on the command line may be: stdin, an address; and frames chosen by scenes. From end to end."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from purekv_cli.app import main
from purekv_cli.batch.collect import collect
from tests.clips import Recipe, corrupted, film, make
from tests.models.families import SAMPLES
from tests.video.served import served
from tests.video.test_scenes import look

Purekv = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("clips")
    make(made, Recipe())
    film(made / "cuts.mp4", [look(1)] * 6 + [look(2)] * 60 + [look(3)] * 30)
    return made


@pytest.fixture
def purekv(capfd: pytest.CaptureFixture[str], bundle: Path) -> Purekv:
    """Runs `purekv VERB ...`, with the bundled model where the verb takes one: (exit code, stdout, stderr)."""

    def run(verb: str, *arguments: str | Path) -> tuple[int, str, str]:
        model = ["-m", str(bundle), "--max-tokens", "4", "--device", "cpu", "--dtype", "float32"]
        with pytest.raises(SystemExit) as ended:
            main([verb, *map(str, arguments), *(model if verb != "probe" else [])])
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_an_address_and_stdin_answer_as_the_file_does(
    purekv: Purekv, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, expected, _ = purekv("ask", folder / "plain.mp4", "what?")
    assert code == 0
    with served(folder) as server:
        code, out, err = purekv("ask", server.url("plain.mp4"), "what?")
        assert (code, out) == (0, expected)
        assert err.startswith("plain.mp4: ")
        _, out, _ = purekv("ask", server.url("plain.mp4"), "what?", "--json")
        assert json.loads(out)["video"]["path"] == server.url("plain.mp4")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper((folder / "plain.mp4").open("rb")))
    code, out, err = purekv("ask", "-", "what?")
    assert (code, out) == (0, expected)
    assert "stdin 0:00" in err


def test_what_cannot_be_fetched_is_two_lines(purekv: Purekv, folder: Path, tmp_path: Path) -> None:
    with served(folder) as server:
        code, out, err = purekv("ask", server.url("none.mp4"), "what?")
        assert (code, out, len(err.splitlines())) == (3, "", 2)
        assert "404" in err
        code, _, err = purekv("ask", server.url("plain.mp4"), "what?", "--offline")
        assert (code, len(server.asked)) == (2, 1)
        code, _, err = purekv("ask", server.url("plain.mp4"), "what?", "--report", tmp_path / "no" / "such.html")
        assert (code, len(server.asked)) == (2, 1)  # found before the download
    code, _, err = purekv("ask", "rtsp://camera/1", "what?")
    assert code == 3
    assert "http(s)" in err


def test_probe_and_explain_take_addresses(purekv: Purekv, folder: Path, tmp_path: Path) -> None:
    with served(folder) as server:
        code, out, _ = purekv("probe", server.url("plain.mp4"), "--json")
        assert json.loads(out)["video"]["path"] == server.url("plain.mp4")
        code, _, err = purekv("explain", server.url("plain.mp4"), "what?", "-o", tmp_path / "why")
        assert code == 0, err
        assert server.url("plain.mp4") not in err
    assert "plain.mp4" in (tmp_path / "why" / "explain.html").read_text(encoding="utf-8")


def test_a_batch_takes_addresses_and_records_those_that_fail(purekv: Purekv, folder: Path, tmp_path: Path) -> None:
    jobs, ledger = tmp_path / "jobs.jsonl", tmp_path / "out.jsonl"
    with served(folder) as server:
        urls = [server.url(name) for name in ("plain.mp4", "none.mp4")]
        jobs.write_text("\n".join(json.dumps({"video": url, "question": "what?"}) for url in urls))
        code, _, err = purekv("batch", jobs, "-o", ledger, "--sample", "scene", "--frames", "4")
        records = [json.loads(line) for line in ledger.read_text().splitlines()[1:]]
        assert code == 6, err
        assert {record["video"]: record["status"] for record in records} == dict(
            zip(urls, ["answered", "failed"], strict=True)
        )
    jobs.write_text('{"video": "-", "question": "what?"}')
    code, _, err = purekv("batch", jobs, "-o", tmp_path / "two.jsonl")
    assert code == 2
    assert "cannot come from stdin" in err


def test_an_address_typed_to_batch_is_no_path() -> None:
    (item,) = collect(["https://a.b/clip.mp4"], ["what?"]).items
    assert item.video == "https://a.b/clip.mp4"


def test_every_scene_is_seen(purekv: Purekv, folder: Path) -> None:
    code, out, _ = purekv("ask", folder / "cuts.mp4", "what?", "--sample", "scene", "--frames", "8", "--json")
    assert code == 0
    times = json.loads(out)["sample"]["times"]
    assert len(times) == 8
    assert [sum(a <= time < b for time in times) for a, b in ((0, 0.5), (0.5, 5.5), (5.5, 8))] == [2, 4, 2]
    code, out, _ = purekv("probe", folder / "cuts.mp4", "--sample", "scene", "--json")
    assert {need["frames"] for need in json.loads(out)["models"]} >= {16}


def test_a_clip_of_one_scene_says_that_it_is_seen_evenly(purekv: Purekv, folder: Path) -> None:
    _, _, err = purekv("ask", folder / "plain.mp4", "what?", "--sample", "scene", "--start", "0", "--end", "0.08")
    assert "no change of scene was found" in err


class TestSeveral:
    def test_a_question_about_two_videos_sees_both(self, purekv: Purekv, folder: Path, tmp_path: Path) -> None:
        report = tmp_path / "report.html"
        code, out, err = purekv(
            "ask", folder / "plain.mp4", "what differs?", "--also", folder / "cuts.mp4", "--json", "--report", report
        )
        assert code == 0, err
        assert err.startswith("plain.mp4 0:00-0:04 + cuts.mp4 0:00-0:08 | 8 frames of ")
        record = json.loads(out)
        grids = [record["sample"]["grid"], record["also"][0]["sample"]["grid"]]
        assert [Path(each["video"]["path"]).name for each in (record, *record["also"])] == ["plain.mp4", "cuts.mp4"]
        assert record["answers"][0]["stats"]["video_tokens"] == sum(a * b * c for a, b, c in grids)
        text = report.read_text(encoding="utf-8")
        assert "plain.mp4 + cuts.mp4" in text
        assert text.count("cuts.mp4: h264") == 1

    def test_each_is_its_own_video_to_the_model(self, purekv: Purekv, folder: Path) -> None:
        """One after the other is not the same as the other way round, nor as one of them alone."""
        one, two = folder / "plain.mp4", folder / "cuts.mp4"
        wanted = ("what?", "--json", "--budget", "0.5")
        tokens = [
            json.loads(purekv("ask", *videos, *wanted)[1])["answers"][0]["stats"]["prompt_tokens"]
            for videos in ((one,), (two,), (one, "--also", two), (two, "--also", one))
        ]
        assert tokens[2] == tokens[3] > max(tokens[:2])

    def test_addresses_and_stdin_join(self, purekv: Purekv, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _, expected, _ = purekv("ask", folder / "plain.mp4", "what?", "--also", folder / "cuts.mp4")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper((folder / "cuts.mp4").open("rb")))
        with served(folder) as server:
            code, out, _ = purekv("ask", server.url("plain.mp4"), "what?", "--also", "-")
        assert (code, out) == (0, expected)
        code, _, err = purekv("ask", "-", "what?", "--also", "-")
        assert code == 2
        assert "only one video can come from stdin" in err

    def test_several_questions_and_a_dry_run(self, purekv: Purekv, folder: Path) -> None:
        videos = (folder / "plain.mp4", "what?", "--also", folder / "plain.mp4")
        code, out, _ = purekv("ask", *videos, "-q", "where?", "--quiet")
        assert (code, len(out.splitlines())) == (0, 2)
        code, out, err = purekv("ask", *videos, "--dry-run", "--json")
        assert code == 0
        assert len(json.loads(out)["also"]) == 1
        assert "1120 tokens" in err

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            (("--start", "5"), "plain.mp4: --start 5 s is past the clip's end"),
            (("--subs", "auto"), "--subs is for one video a question"),
            (("--budget", "3t"), "budget"),
        ],
    )
    def test_what_cannot_be_is_two_lines(self, purekv: Purekv, folder: Path, more: tuple[str, str], said: str) -> None:
        code, out, err = purekv("ask", folder / "cuts.mp4", "what?", "--also", folder / "plain.mp4", *more)
        assert (code, out) == (2, "")
        assert said in err
        code, _, _ = purekv("ask", folder / "cuts.mp4", "what?", "--also", folder / "none.mp4")
        assert code == 3

    def test_a_model_that_takes_one_says_so_before_it_is_loaded(
        self, capfd: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = SAMPLES["internvl"].write(tmp_path / "internvl")
        monkeypatch.setattr("purekv_cli.commands.model.ChosenModel.load", None)
        with pytest.raises(SystemExit) as ended:
            main(["ask", str(folder / "cuts.mp4"), "what?", "--also", str(folder / "plain.mp4"), "-m", str(model)])
        assert ended.value.code == 2
        assert "takes one video a question" in capfd.readouterr().err

    def test_little_memory_is_shared_by_all(
        self, purekv: Purekv, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("purekv_cli.commands.model.ChosenModel.room", lambda model: 1000)
        code, out, err = purekv(
            "ask", folder / "plain.mp4", "what?", "--also", folder / "cuts.mp4", "--dry-run", "--json"
        )
        assert code == 0
        plan = json.loads(out)
        grids = [plan["sample"]["grid"], plan["also"][0]["sample"]["grid"]]
        tokens = [a * b * c for a, b, c in grids]
        assert sum(tokens) <= 1000
        assert min(tokens) > 200
        assert "note: cuts.mp4: " in err

    def test_damage_is_told_with_the_name(self, purekv: Purekv, folder: Path) -> None:
        corrupted(make(folder, Recipe("whole.mp4", gop=6)), range(20, 24), "damaged.mp4")
        videos = (folder / "cuts.mp4", "--also", folder / "damaged.mp4")
        code, out, err = purekv("ask", *videos, "-q", "what?", "--fps", "12", "--json")
        assert code == 0
        assert "note: damaged.mp4: skipped " in err
        assert any(note.startswith("damaged.mp4: skipped ") for note in json.loads(out)["damage"])
