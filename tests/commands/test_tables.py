"""The verbs whose answer is a table: probe, models, presets, policies, doctor."""

import json
from pathlib import Path

import pytest

from purekv_cli.app import main
from tests.clips import Recipe, make, truncated


def shown(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    assert (ended.value.code, err) == (0, "")
    return out


def test_probe_tells_what_the_file_holds(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    clip = make(tmp_path, Recipe("turned.mp4", ticks=(0, 1, 2, 7, 8, 9, 20, 21, 22, 23), rotation=90, audio=True))
    out = shown(capfd, "probe", clip.path)
    for fact in ("h264", "96", "rotated by 90", "variable", "0:02", "yes (heard with --audio", "none found"):
        assert fact in out


def test_probe_counts_tokens_and_bytes_of_every_model(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    clip = make(tmp_path, Recipe("wide.mp4", size=(360, 640)))
    record = json.loads(shown(capfd, "probe", clip.path, "--json", "--frames", "16"))
    needs = {need["model"]: need for need in record["models"]}
    assert list(needs) == ["3b", "7b", "32b", "72b", "videollama2", "videollama2.1"]
    assert needs["videollama2"]["video_tokens"] == 9 * 13 * 13
    assert needs["7b"]["video_tokens"] == 8 * 13 * 23
    assert needs["7b"]["kv_bytes_full"] > 2 * 28 * 4 * 128 * 2 * 8 * 13 * 23  # and the text
    assert needs["7b"]["kv_bytes_kept"] == round(needs["7b"]["kv_bytes_full"] / 5)
    assert record["video"]["frames"] == 48


def test_probe_reports_a_file_that_is_shorter_than_it_claims(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    clip = truncated(make(tmp_path, Recipe(muxer={"movflags": "faststart"}, gop=1)), 0.6, "cut.mp4")
    out = shown(capfd, "probe", clip.path)
    assert "the header claims 0:04" in out
    assert "of 4.0 s" in out


def test_policies_are_those_of_the_engine(capfd: pytest.CaptureFixture[str]) -> None:
    from purekv_cli.method.policies import POLICIES

    record = json.loads(shown(capfd, "policies", "--json"))
    assert [row["name"] for row in record["policies"]] == list(POLICIES)
    assert all(row["summary"] and row["source"] for row in record["policies"])
    assert all(name in shown(capfd, "policies") for name in POLICIES)


def test_presets_are_listed_and_shown(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "qwen2.5-vl-7b" in shown(capfd, "presets")
    assert "method.sparse.content" in shown(capfd, "presets", "qwen2.5-vl-7b")
    mine = tmp_path / "mine.toml"
    mine.write_text('title = "mine"\nmethod = { budget = "64t" }\n')
    assert "64t" in shown(capfd, "presets", mine)


def test_models_tell_what_is_cached(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--Qwen--Qwen2.5-VL-7B-Instruct"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("abc")
    (home / "snapshots").mkdir()
    (home / "snapshots" / "abc").symlink_to(bundle)
    states = {row["name"]: row["state"] for row in json.loads(shown(capfd, "models", "--json"))["models"]}
    assert states["7b"].startswith("cached, 1.")
    assert states["3b"].startswith("not here")


def test_doctor_says_what_runs_and_why_not_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--json"])
    record = json.loads(capfd.readouterr().out)
    assert record["packages"]["torch"]
    attention = {row["kernel"]: row for row in record["kernels"]["attention"]}
    assert attention["reference"]["usable"]
    assert all(row["why"] for row in attention.values())
    assert record["devices"][-1]["name"].startswith("cpu")


def test_doctor_survives_a_broken_part_and_says_so(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise OSError("libav is gone")

    monkeypatch.setattr("purekv_cli.commands.doctor._ffmpeg", broken)
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 1
    assert "libav is gone" in capfd.readouterr().out


def test_models_list_says_how_every_family_was_verified(capfd: pytest.CaptureFixture[str]) -> None:
    for line in (["models", "list", "--json"], ["models", "--json"]):
        told = json.loads(shown(capfd, *line))["families"]
        assert {"qwen2_5_vl", "qwen3_vl", "internvl"} <= {family["name"] for family in told}
        assert all(family["verified"] and family["architectures"] for family in told)
    assert "5.17" in json.loads(shown(capfd, "models", "--json"))["contract"]
