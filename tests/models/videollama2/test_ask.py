"""`purekv ask CLIP ... -m FOLDER` from end to end on small random checkpoints in the released layout."""

import json
import math
from pathlib import Path

import pytest

from purekv_cli.app import main
from tests.clips import Recipe, make


def ask(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["ask", *map(str, arguments), "--max-tokens", "4", "--device", "cpu", "--dtype", "float32"])
    out, err = capfd.readouterr()
    assert not ended.value.code, err
    return out, err


def test_ask(released: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip = make(tmp_path, Recipe()).path
    out, _ = ask(capfd, clip, "what?", "-q", "where?", "-m", released, "--budget", "0.96", "--json")
    told = json.loads(out)
    frames = json.loads((released / "config.json").read_text())["num_frames"]
    assert told["sample"]["frames"] == frames
    assert [answer["question"] for answer in told["answers"]] == ["what?", "where?"]
    assert all(a["stats"]["kept_tokens"] < a["stats"]["prompt_tokens"] for a in told["answers"])
    assert told["answers"][0]["stats"]["video_tokens"] == math.prod(told["sample"]["grid"])


def test_more_frames_than_the_model_takes(released: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    clip = make(tmp_path, Recipe()).path
    out, err = ask(capfd, clip, "what?", "-m", released, "--frames", "40", "--dry-run", "--json")
    assert json.loads(out)["sample"]["frames"] == 32
    assert "32 of 40 frames" in err
