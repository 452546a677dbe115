"""`purekv calibrate` from end to end: on rendered clips with the embedded model, on files with a tiny random one."""

import json
from pathlib import Path

import pytest
from PIL import Image

from purekv_cli.app import main
from purekv_cli.calibrate import trials
from purekv_cli.presets import read_preset
from tests.clips import Recipe, make


def run(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", *map(str, arguments)])
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), out, err


def test_two_short_clips_make_a_preset_that_loads(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "FLOW_LAYERS", 1)
    monkeypatch.setattr(trials, "FLOW_SHARES", (0.5,))
    preset, picture = tmp_path / "demo.toml", tmp_path / "matrix.png"
    flags = ("--suite", "short", "--clips", "2", "--questions", "1", "--budget", "0.3", "--policy", "random")
    code, out, err = run(capfd, "-m", "demo", *flags, "-o", preset, "--plot", picture, "--json")
    assert code == 0, err
    record = json.loads(out)
    correlations = record["correlations"]["question"]
    assert [row[layer] for layer, row in enumerate(correlations["plain"])] == pytest.approx([1.0] * 8, abs=1e-3)
    assert (correlations["samples"], len(correlations["spread"]["valued"])) == (2 * 2, 8)
    kinds = [cost["kind"] for cost in record["costs"]]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "starved": 8, "bare": 8, "score layer": 4, "layer budgets": 8, "preamble": 9, "carry": 4, "budget": 2,
        "propagation": 1, "sparse": 2,
    }  # fmt: skip
    made = read_preset(preset)
    assert (made.calibrated, made.models, str(made.method.budget)) == (True, ("demo",), "0.3")
    assert list(made.method.score_layers) == record["choice"]["score_layers"]
    assert "round 3 of 3, costs: 2 of 2 clips" in err
    assert Image.open(picture).width > 1000


def test_files_are_followed_along_denses_own_answers(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, bundle: Path
) -> None:
    clips = [make(tmp_path, Recipe(name, ticks=tuple(range(6)))).path for name in ("a.mp4", "b.mp4")]
    gone = tmp_path / "gone.mp4"
    flags = ("-m", bundle, "--budget", "0.5", "--policy", "random", "--max-tokens", "4")
    code, out, err = run(capfd, *clips, gone, "-q", "what happens?", "-q", "who is there?", *flags)
    assert code == 0, err
    assert "gone.mp4" in err
    path = tmp_path / "tiny.toml"
    path.write_text(out, encoding="utf-8")
    assert read_preset(path).models == (str(bundle),)
    assert "questions: 4, along dense's own greedy answers; dense is right 4 times" in out


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (("--budget", "512MiB"), "shares"),
        (("--policy", "purkv"), "no policy"),
        (("--suite", "tall"), "no suite"),
        (("-q", "why?"), "own questions"),
        (("-o", "preset.txt"), ".toml"),
        (("--plot", "nowhere/matrix.png"), "cannot write"),
        (("--first-seed", "999999", "--clips", "2"), "held out"),
    ],
)
def test_a_wrong_flag_is_refused_before_any_work(
    capfd: pytest.CaptureFixture[str], flags: tuple[str, ...], what: str
) -> None:
    code, out, err = run(capfd, *flags, "-m", "demo")
    assert (code, out) == (2, "")
    assert what in err


def test_a_first_budget_that_does_not_hold_the_text_is_an_error(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, bundle: Path
) -> None:
    clip = make(tmp_path, Recipe("a.mp4", ticks=tuple(range(6)))).path
    code, out, err = run(capfd, clip, "-m", bundle, "--budget", "0.01,0.5", "--max-tokens", "4")
    assert (code, out) == (2, "")
    assert "text that must stay" in err


def test_nothing_to_read_is_an_error(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capfd, tmp_path / "gone.mp4", "-m", "demo")
    assert (code, out) == (3, "")
    assert "none of the videos could be read" in err
