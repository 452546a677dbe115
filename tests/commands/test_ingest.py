"""What a video on the command line may be: stdin, an address; and frames chosen by scenes. From end to end."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from purekv_cli.app import main
from purekv_cli.batch.collect import collect
from tests.clips import Recipe, film, make
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
    assert "http://" in err


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
        code, _, err = purekv("batch", jobs, "-o", ledger)
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
