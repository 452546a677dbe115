"""The embedded model from end to end: a sample clip as a real file, a true answer, five times less cache."""

import json
from pathlib import Path

import pytest

from purekv_cli.app import main
from purekv_cli.demo import NOTICE, sample_clip
from purekv_cli.demo.language import matches


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "sample.mp4"
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--clip-only", "--output", str(path), "--quiet"])
    assert ended.value.code == 0
    return path


def asked(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[dict, str]:  # type: ignore[type-arg]
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "-m", "demo", "--json"])
    out, err = capfd.readouterr()
    assert ended.value.code == 0, err
    return json.loads(out), err


def test_a_fifth_of_the_cache_gives_the_true_answer(
    capfd: pytest.CaptureFixture[str], sample: Path, tmp_path: Path
) -> None:
    truth = next(q.answer for q in sample_clip(tmp_path / "again.mp4").questions if q.type == "narration")
    record, err = asked(capfd, "ask", sample, "what happens?", "--budget", "0.2")
    answer = record["answers"][0]
    assert NOTICE in err
    assert matches(answer["text"], truth)
    assert answer["finish"] == "stop"
    assert answer["stats"]["kv_bytes_full"] >= 5 * answer["stats"]["kv_bytes_kept"]


def test_the_demo_shows_answers_and_what_they_cost(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--output", str(tmp_path / "clip.mp4")])
    out, err = capfd.readouterr()
    assert ended.value.code == 0
    assert out.startswith("what happens?\t")
    assert all(line.partition("\t")[2] for line in out.splitlines())
    assert "KV cache, kept" in err
    assert (tmp_path / "clip.mp4").stat().st_size > 1000


def test_it_says_so_when_the_clip_does_not_show_it(capfd: pytest.CaptureFixture[str], sample: Path) -> None:
    record, _ = asked(capfd, "ask", sample, "what does the elephant do?")
    assert "does not show" in record["answers"][0]["text"]
