"""`purekv explain` from end to end, with the demo model on its own clip and a tiny random one where that is enough."""

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from purekv_cli.app import main
from purekv_cli.demo import sample_clip
from purekv_cli.explain.sheet import corner, layout
from purekv_cli.video.decode import decode
from purekv_cli.video.probe import probe
from purekv_cli.video.sample import SampleSpec, sample
from tests.browser import DESKTOP, PHONE, look, needs_browser
from tests.clips import Recipe, make


def run(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["explain", *map(str, arguments), "--device", "cpu"])
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    sample_clip(path)
    return path


@pytest.fixture
def tiny(tmp_path: Path, bundle: Path) -> tuple[str | Path, ...]:
    """Arguments for a short clip and the tiny model."""
    path = make(tmp_path, Recipe("a.mp4", ticks=tuple(range(6)))).path
    return (path, "why?", "-m", bundle, "--max-tokens", "4", "--dtype", "float32")


def test_what_is_written_agrees_with_the_engine(capfd: pytest.CaptureFixture[str], clip: Path, tmp_path: Path) -> None:
    folder, question = tmp_path / "out", "what happens?"
    code, out, err = run(capfd, clip, question, "-m", "demo", "--json", "-o", folder, "--overlay", tmp_path / "o.mp4")
    assert code == 0, err
    record = json.loads(out)
    (answer,) = record["answers"]
    assert sorted(path.name for path in folder.iterdir()) == ["contact.png", "explain.html", "kept.npz", "timeline.png"]
    assert (tmp_path / "o.mp4").stat().st_size > 0
    with np.load(folder / "kept.npz") as kept:
        assert kept["counts"].mean() == pytest.approx(answer["stats"]["kept_tokens"])
        assert ((kept["positions"] >= 0).sum(-1) == kept["counts"]).all()
        assert kept["positions"].max() == answer["stats"]["prompt_tokens"] - 1  # the text after the video stays
        assert kept["grid"].tolist() == record["sample"]["grid"]
        assert kept["times"] == pytest.approx(record["sample"]["times"])
        inside = np.isin(kept["positions"], kept["video"]).sum()
        share = inside / (kept["video"].size * kept["counts"].size)
    page = (folder / "explain.html").read_text(encoding="utf-8")
    assert f"{share:.1%}" in page
    assert f"{inside:,}" in page
    assert answer["text"] in page
    inlined = [base64.b64decode(data) for data in re.findall(r"data:image/png;base64,([^\"]+)", page)]
    assert inlined == [(folder / "contact.png").read_bytes()]
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert page.count("prefers-color-scheme: dark") == page.count("<svg") == 1
    assert page.count("<h2>What was kept</h2>") == page.count("<h2>Memory of the KV cache</h2>") == 1
    assert "█" in err
    assert "written: " in err


def test_the_answer_alone_is_on_stdout(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, tiny: tuple[str | Path, ...]
) -> None:
    code, out, err = run(capfd, *tiny, "-o", tmp_path / "out", "--quiet")
    assert (code, err) == (0, "")
    with pytest.raises(SystemExit):
        main(["ask", *map(str, tiny), "--quiet", "--device", "cpu"])
    assert out == capfd.readouterr().out


def decoded(record: dict[str, Any]) -> np.ndarray:
    """The frames that a run with default sampling read, uint8 [F, h, w, 3]."""
    info = probe(Path(record["video"]["path"]))
    size = (record["sample"]["height"], record["sample"]["width"])
    return decode(info, sample(info, SampleSpec()), size).pixels


def on_the_sheet(folder: Path, frames: np.ndarray) -> list[np.ndarray]:
    """Every frame as contact.png shows it, uint8 [h, w, 3]."""
    columns, (width, height) = layout(len(frames), *frames.shape[1:3])
    with Image.open(folder / "contact.png") as picture:
        places = [corner(place, columns, (width, height)) for place in range(len(frames))]
        return [np.asarray(picture.crop((x, y, x + width, y + height))) for x, y in places]


def test_patches_that_all_heads_keep_are_bright_and_dropped_ones_dim(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, tiny: tuple[str | Path, ...]
) -> None:
    code, out, err = run(capfd, make(tmp_path, Recipe()).path, *tiny[1:], "--budget", "0.4", "--json", "-o", tmp_path)
    assert code == 0, err
    frames = decoded(json.loads(out))
    with np.load(tmp_path / "kept.npz") as kept:
        heads = [set(row) for layer in kept["positions"].tolist() for row in layer]
        holding = np.array([sum(token in head for head in heads) for token in kept["video"].tolist()])
        grid, steps = kept["grid"], kept["steps"]
    holding = holding.reshape(grid)
    found = {0: 0, len(heads): 0}
    for frame, shown, step in zip(frames, on_the_sheet(tmp_path, frames), steps, strict=True):
        plain = np.asarray(Image.fromarray(frame).resize(shown.shape[1::-1], Image.Resampling.BOX)).astype(int)
        for row, column in np.ndindex(*grid[1:]):
            y, x = (int((place + 0.5) * edge / count) for place, edge, count in
                    zip((row, column), shown.shape, grid[1:], strict=False))  # fmt: skip
            held = int(holding[step, row, column])
            if held == len(heads):
                assert abs(shown[y, x] - plain[y, x]).max() <= 1
            elif held == 0:
                assert np.ptp(shown[y, x]) <= 1  # grey
                assert shown[y, x].max() <= plain[y, x].max() / 4 + 1
            found[held] = found.get(held, 0) + 1
    assert found[0] > 0
    assert found[len(heads)] > 0


def test_dense_keeps_everything_and_all_is_bright(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, tiny: tuple[str | Path, ...]
) -> None:
    code, out, err = run(capfd, make(tmp_path, Recipe()).path, *tiny[1:], "--dense", "--json", "-o", tmp_path)
    assert code == 0, err
    with np.load(tmp_path / "kept.npz") as kept:
        assert (kept["counts"] == kept["prompt_tokens"]).all()
    assert "100.0%" in (tmp_path / "explain.html").read_text(encoding="utf-8")
    frames = decoded(json.loads(out))
    assert len(frames) > 4
    for frame, shown in zip(frames, on_the_sheet(tmp_path, frames), strict=True):
        plain = Image.fromarray(frame).resize(shown.shape[1::-1], Image.Resampling.BOX)
        assert (shown == np.asarray(plain)).all()


def test_what_is_asked_cannot_break_the_page(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, tiny: tuple[str | Path, ...]
) -> None:
    video, _, *rest = tiny
    asked = "</style>  <h2>Memory of the KV cache</h2>?"
    assert run(capfd, video, asked, *rest, "--budget", "0.9", "-o", tmp_path)[0] == 0
    page = (tmp_path / "explain.html").read_text(encoding="utf-8")
    assert page.count("</style>") == page.count("<h2>Memory of the KV cache</h2>") == 1


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (("-o", "{}/a.mp4"), "is a file"),
        (("-o", "{}/no/where"), "there is no folder"),
        (("--overlay", "{}/overlay.avi"), "overlay.mp4"),
        (("--overlay", "{}/no/o.mp4"), "no such folder"),
        (("--layer", "3"), "layers 0 to 2"),
        (("--layer", "-1"), "no layer -1"),
    ],
)
def test_what_cannot_be_is_said_in_two_lines_and_nothing_is_written(
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    tiny: tuple[str | Path, ...],
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    what: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("purekv_cli.pipeline.decode", None)
    code, out, err = run(capfd, *tiny, *(flag.format(tmp_path) for flag in flags))
    assert (code, out) == (2, "")
    assert what in "".join(err.splitlines(keepends=True)[-2:])
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_folder_that_may_not_be_written_to_is_said_before_any_work(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, tiny: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    readable = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **more: not mode & os.W_OK and readable(path, mode, **more))
    code, out, err = run(capfd, *tiny, "-o", tmp_path / "out")
    assert (code, out) == (2, "")
    assert "cannot write into" in err


def test_a_full_disk_leaves_no_half_of_it(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, tiny: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("purekv_cli.explain.chart.draw", full)
    code, out, err = run(capfd, *tiny, "-o", tmp_path / "out")
    assert code == 5
    assert out.endswith("\n")
    assert "No space left" in err
    assert list((tmp_path / "out").iterdir()) == []


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(DESKTOP, False), (PHONE, True)], ids=["desktop, light", "phone, dark"])
def test_a_browser_draws_the_page_and_its_numbers(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, tiny: tuple[str | Path, ...], width: int, dark: bool
) -> None:
    code, out, err = run(capfd, *tiny, "--budget", "0.9", "--json", "-o", tmp_path)
    assert code == 0, err
    (answer,) = json.loads(out)["answers"]
    seen = look(tmp_path / "explain.html", tmp_path / "browser", width, dark=dark)
    with np.load(tmp_path / "kept.npz") as kept, Image.open(tmp_path / "contact.png") as contact:
        inside = np.isin(kept["positions"], kept["video"])
        assert f"{inside.sum() / (kept['video'].size * kept['counts'].size):.1%}" in seen.found["text"]
        assert f"{inside.sum():,} of {kept['video'].size * kept['counts'].size:,}" in seen.found["text"]
        layers = [f"{100 * share:.1f}%" for share in inside.sum((1, 2)) / kept["video"].size / kept["counts"].shape[1]]
        assert seen.found["pictures"] == [contact.width]
        seconds = int(kept["times"][-1]) + 1
    assert [text for _, _, text in seen.bars("By layer")] == layers
    assert " ".join(answer["text"].split()) in " ".join(seen.found["text"].split())
    (drawing,) = seen.found["drawings"]
    assert len(drawing["boxes"]) == seconds
    assert min(drawing["boxes"]) > 1
    memory = {label: px for label, px, _ in seen.bars("Memory of the KV cache")}
    ratio = answer["stats"]["kv_bytes_kept"] / answer["stats"]["kv_bytes_full"]
    assert memory["kept"] / memory["full"] == pytest.approx(ratio, abs=0.02)
    assert seen.found["needed"] == seen.found["room"] == width
    assert seen.found["fetched"] == []
    assert (seen.pixels[5, 5].mean() < 80) == dark
    assert len(np.unique(seen.pixels.reshape(-1, 3), axis=0)) > 500  # the pictures are drawn
