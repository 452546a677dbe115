"""Which subtitles a video gets."""

from dataclasses import replace
from pathlib import Path

import pytest

from purekv_cli.errors import UnreadableInput
from purekv_cli.subtitles.cue import Cue
from purekv_cli.subtitles.find import AUTO, find
from purekv_cli.video.info import VideoInfo
from purekv_cli.video.probe import probe
from tests.clips import Recipe, make
from tests.subtitles.made import SAID, srt, with_stream


@pytest.fixture(scope="module")
def info(tmp_path_factory: pytest.TempPathFactory) -> VideoInfo:
    return probe(make(tmp_path_factory.mktemp("clips"), Recipe()).path)


def moved(info: VideoInfo, folder: Path) -> VideoInfo:
    path = folder / "clip.mp4"
    path.write_bytes(info.path.read_bytes())
    return replace(info, path=path)


def test_a_named_file_is_taken_wherever_it_is(info: VideoInfo, tmp_path: Path) -> None:
    found = find(str(srt(tmp_path / "other.srt")), info)
    assert (found.cues, found.source) == (SAID, "other.srt")


def test_auto_takes_the_videos_own_before_a_file_beside_it(info: VideoInfo, tmp_path: Path) -> None:
    path = with_stream(info.path, tmp_path / "clip.mkv", "srt")
    srt(tmp_path / "clip.srt", [Cue(0, 1, "beside")])
    found = find(AUTO, probe(path))
    assert (found.cues, found.source) == (SAID, "its own stream")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["clip.srt", "clip.en.srt"], "clip.srt"),
        (["clip.fr.srt", "clip.en-GB.srt", "clip.part.two.srt"], "clip.en-GB.srt"),
        (["clip.SRT"], "clip.SRT"),
        (["clip2.srt", "clip.part2.srt", "another.srt"], ""),
    ],
    ids=" ".join,
)
def test_auto_takes_a_file_of_the_same_stem(info: VideoInfo, tmp_path: Path, names: list[str], chosen: str) -> None:
    for name in names:
        srt(tmp_path / name)
    found = find(AUTO, moved(info, tmp_path))
    assert found.source == chosen
    assert bool(found.cues) == bool(chosen)


def test_auto_says_what_it_looked_for(info: VideoInfo, tmp_path: Path) -> None:
    missing = find(AUTO, moved(info, tmp_path)).missing or ""
    assert "no subtitles of clip.mp4: no stream of its own" in missing
    assert "clip[.LANGUAGE].vtt" in missing


def test_a_damaged_file_beside_it_is_an_error(info: VideoInfo, tmp_path: Path) -> None:
    (tmp_path / "clip.srt").write_bytes(b"\x00\x01 nothing")
    with pytest.raises(UnreadableInput, match=r"clip\.srt"):
        find(AUTO, moved(info, tmp_path))
