"""Subtitles as FFmpeg reads them, in the forms and encodings in which they come."""

from pathlib import Path

import pytest

from purekv_cli.errors import UnreadableInput
from purekv_cli.subtitles.cue import Cue
from purekv_cli.subtitles.read import read_file, read_own
from purekv_cli.video.probe import probe
from tests.clips import Recipe, make
from tests.subtitles.made import SAID, srt, with_stream

VTT = """WEBVTT

NOTE not said
over two lines

STYLE
::cue { color: red }

intro
00:01.000 --> 00:02.500 align:start position:10%
<v Bob>Hi <c.yellow>all</c> &lt;3 &amp;amp; <00:00:01.500>{now}</v>

1:00:00.000 --> 1:00:04.000
- late
- later
"""
ASS = """[Script Info]
ScriptType: v4.00+
[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20
[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,{\\i1}Hello, you{\\i0}{a note}\\Nline\\htwo
Comment: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,hidden
Dialogue: 0,0:00:03.00,0:00:04.00,Default,,0,0,0,,{\\p1}m 0 0 l 100 0 100 100{\\p0}
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("clips"), Recipe()).path


def test_srt_without_its_markup(tmp_path: Path) -> None:
    raw = '<i>Tom</i> <font color="red">&amp;</font> Jerry {\\an8}{laugh} 3 < 4'
    assert read_file(srt(tmp_path / "a.srt", [Cue(1, 2.5, raw)])) == [Cue(1, 2.5, "Tom & Jerry {laugh} 3 < 4")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_srt_in_any_usual_encoding(tmp_path: Path, encoding: str) -> None:
    said = [Cue(1, 2, "Grüße, ça va? 5 €"), Cue(3, 4, "ja")]
    assert read_file(srt(tmp_path / "a.srt", said, encoding)) == said


def test_vtt_without_notes_styles_and_tags(tmp_path: Path) -> None:
    (tmp_path / "a.vtt").write_text(VTT)
    assert read_file(tmp_path / "a.vtt") == [Cue(1, 2.5, "Hi all <3 &amp; {now}"), Cue(3600, 3604, "- late\n- later")]


def test_ass_without_comments_and_drawings(tmp_path: Path) -> None:
    (tmp_path / "a.ass").write_text(ASS)
    assert read_file(tmp_path / "a.ass") == [Cue(1, 2.5, "Hello, you\nline two")]


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "srt"), ("b.mkv", "ass"), ("a.mp4", "mov_text")])
def test_a_stream_of_the_video(tmp_path: Path, clip: Path, name: str, codec: str) -> None:
    assert read_own(with_stream(clip, tmp_path / name, codec), 0.0) == (list(SAID), False)


def test_times_count_from_the_first_frame(tmp_path: Path, clip: Path) -> None:
    path = with_stream(clip, tmp_path / "late.mkv", "srt", offset=7.0)
    info = probe(path)
    origin = float(info.origin * info.time_base)
    assert origin == pytest.approx(7.0)
    assert [cue.start for cue in read_own(path, origin)[0]] == pytest.approx([0.5, 2.0])


def test_a_video_without_subtitles_has_none(clip: Path) -> None:
    assert read_own(clip, 0.0) == ([], False)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.srt", None, "no subtitle file"),
        ("a.srt", b"", "cannot be read"),
        ("a.vtt", b"WEBVTT\n", "holds no"),
        ("a.txt", b"import os\n", "cannot be read"),
    ],
)
def test_what_holds_no_subtitles_is_said(tmp_path: Path, name: str, content: bytes | None, what: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableInput, match=what):
        read_file(path)
