"""`purekv ask` from end to end on a real file, with a tiny random model in a released checkpoint's layout."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from purekv_cli.app import main
from tests.clips import Recipe, make

Purekv = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("clips"), Recipe()).path


@pytest.fixture
def purekv(capfd: pytest.CaptureFixture[str], bundle: Path) -> Purekv:
    """Runs `purekv ... -m BUNDLE` with short answers: (exit code, stdout, stderr)."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(
                [*map(str, arguments), "-m", str(bundle), "--max-tokens", "6", "--device", "cpu", "--dtype", "float32"]
            )
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_the_answer_is_all_that_stdout_holds(purekv: Purekv, clip: Path) -> None:
    code, out, err = purekv("ask", clip, "what happens?", "--json")
    text = json.loads(out)["answers"][0]["text"]
    code, out, err = purekv("ask", clip, "what happens?")
    assert (code, out) == (0, text + "\n")
    assert "8 frames" in err.splitlines()[0]


def test_streamed_and_whole_answers_are_the_same(purekv: Purekv, clip: Path) -> None:
    assert purekv("ask", clip, "why?")[1] == purekv("ask", clip, "why?", "--no-stream")[1]


def test_quiet_says_nothing_but_the_answer(purekv: Purekv, clip: Path) -> None:
    code, out, err = purekv("ask", clip, "why?", "--quiet")
    assert code == 0
    assert out
    assert err == ""


def test_without_a_terminal_there_are_no_bars_and_no_colours(purekv: Purekv, clip: Path) -> None:
    _, out, err = purekv("ask", clip, "why?", "--stats")
    assert "\x1b" not in out + err
    assert "\r" not in err


def test_several_questions_are_lines_of_question_and_answer(purekv: Purekv, clip: Path) -> None:
    code, out, _ = purekv("ask", clip, "what?", "-q", "where?", "--quiet")
    assert code == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == ["what?", "where?"]


def test_a_policy_that_reads_the_question_says_that_it_cannot_share(purekv: Purekv, clip: Path) -> None:
    _, _, err = purekv("ask", clip, "what?", "-q", "where?")
    assert "--observe template shares it" in err
    for policy in ("purekv", "snapkv"):
        _, _, err = purekv("ask", clip, "what?", "-q", "where?", "--observe", "template", "--policy", policy)
        assert "shares it" not in err


@pytest.mark.parametrize("observe", ["video", "template"])
def test_a_shared_prefill_gives_each_question_its_own_answer(purekv: Purekv, clip: Path, observe: str) -> None:
    _, out, _ = purekv("ask", clip, "what?", "-q", "where is it?", "--observe", observe, "--json")
    together = [answer["text"] for answer in json.loads(out)["answers"]]
    _, out, _ = purekv("ask", clip, "where is it?", "-q", "what?", "--observe", observe, "--json")
    assert [answer["text"] for answer in json.loads(out)["answers"]] == together[::-1]


def test_the_template_answers_one_question_as_among_many(purekv: Purekv, clip: Path) -> None:
    _, out, _ = purekv("ask", clip, "what?", "-q", "where is it?", "--observe", "template", "--json")
    among = json.loads(out)["answers"][1]
    _, out, _ = purekv("ask", clip, "where is it?", "--observe", "template", "--json")
    alone = json.loads(out)["answers"][0]
    assert alone["text"] == among["text"]
    assert alone["stats"]["kept_tokens"] == among["stats"]["kept_tokens"]


def test_json_counts_what_stayed(purekv: Purekv, clip: Path) -> None:
    _, out, _ = purekv("ask", clip, "why?", "--budget", "0.25", "--json")
    record = json.loads(out)
    stats = record["answers"][0]["stats"]
    assert record["schema_version"] == 1
    assert record["method"]["budget"] == "0.25"
    assert stats["video_tokens"] == 4 * 10 * 14
    assert stats["kv_bytes_full"] == 2 * 3 * 2 * 16 * 4 * stats["prompt_tokens"]
    assert stats["kv_ratio"] == pytest.approx(4, rel=0.02)
    assert stats["kept_tokens"] == pytest.approx(stats["prompt_tokens"] / 4, rel=0.02)


def test_dense_keeps_everything(purekv: Purekv, clip: Path) -> None:
    _, out, _ = purekv("ask", clip, "why?", "--dense", "--json")
    stats = json.loads(out)["answers"][0]["stats"]
    assert stats["kv_bytes_kept"] == stats["kv_bytes_full"]


def test_the_clip_range_decides_which_frames_are_read(purekv: Purekv, clip: Path) -> None:
    _, out, _ = purekv("ask", clip, "why?", "--start", "0:01", "--end", "2", "--fps", "4", "--json")
    assert json.loads(out)["sample"]["times"] == [1.0, 1.25, 1.5, 1.75]


def test_a_dry_run_shows_the_plan_and_loads_nothing(
    purekv: Purekv, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("purekv_cli.pipeline.decode", None)
    report = tmp_path / "report.html"
    code, out, err = purekv("ask", clip, "why?", "--dry-run", "--report", report)
    assert (code, out) == (0, "")
    assert "560 tokens" in err
    assert not report.exists()
    code, out, _ = purekv("ask", clip, "why?", "--dry-run", "--json")
    assert json.loads(out)["sample"]["grid"] == [4, 10, 14]


@pytest.mark.parametrize("suffix", [".json", ".md", ".html"])
def test_a_report_is_written_whole_and_holds_the_answer(
    purekv: Purekv, clip: Path, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"report{suffix}"
    code, out, _ = purekv("ask", clip, "what <b>is</b> it?", "--report", path)
    text = path.read_text(encoding="utf-8")
    assert code == 0
    assert list(tmp_path.iterdir()) == [path]
    assert "plain.mp4" in text
    if suffix == ".json":
        assert json.loads(text)["answers"][0]["text"] == out.rstrip("\n")
    if suffix == ".html":
        assert "what &lt;b&gt;is&lt;/b&gt; it?" in text
        assert text.count("data:image/jpeg;base64,") == 8
        assert "http" not in text.replace("http-equiv", "")
    if suffix == ".md":
        assert "| KV cache, kept |" in text


def test_the_same_seed_gives_the_same_bytes(purekv: Purekv, clip: Path) -> None:
    arguments = ("ask", clip, "why?", "--policy", "random", "--budget", "0.3", "--seed", "5", "--quiet")
    assert purekv(*arguments)[1] == purekv(*arguments)[1]


def test_the_reference_kernels_can_be_demanded(purekv: Purekv, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from purekv_cli import kernels
    from purekv_cli.kernels.attention import reference

    calls = []
    plain = reference.attention
    monkeypatch.setattr(reference, "attention", lambda *a, **k: calls.append(1) or plain(*a, **k))
    monkeypatch.setattr(kernels, "_allowed", "auto")  # undone afterwards
    _, usual, _ = purekv("ask", clip, "why?", "--quiet")
    calls.clear()
    _, slow, _ = purekv("ask", clip, "why?", "--quiet", "--kernels", "reference")
    assert len(calls) >= 3  # every layer's prefill at least
    assert slow == usual


def test_the_environment_goes_over_the_config_file_and_under_a_flag(
    purekv: Purekv, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("budget = 0.3\nframes = 4\n")
    monkeypatch.setenv("PUREKV_CONFIG", str(config))
    monkeypatch.setenv("PUREKV_BUDGET", "0.4")
    _, out, _ = purekv("ask", clip, "why?", "--dry-run", "--json")
    plan = json.loads(out)
    assert (plan["method"]["budget"], plan["sample"]["frames"]) == ("0.4", 4)
    _, out, _ = purekv("ask", clip, "why?", "--dry-run", "--json", "--budget", "0.5")
    assert json.loads(out)["method"]["budget"] == "0.5"


def test_auto_announces_the_demo_model_and_takes_the_configured_one(
    clip: Path, bundle: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("PUREKV_MODEL", str(bundle))
    with pytest.raises(SystemExit):
        main(["ask", str(clip), "why?", "--dry-run"])
    assert str(bundle) in capfd.readouterr().err
    monkeypatch.delenv("PUREKV_MODEL")
    monkeypatch.setattr("purekv_cli.demo.MODEL_DIR", bundle)  # the real one's answers are tested elsewhere
    with pytest.raises(SystemExit):
        main(["ask", str(clip), "why?", "--dry-run"])
    err = capfd.readouterr().err
    assert "demo, " in err
    assert "demonstration model" in err
