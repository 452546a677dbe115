"""`probe` tells the truth about good clips, and says what is wrong with bad ones."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from purekv_cli.errors import UnreadableInput, UsageError
from purekv_cli.video.probe import probe
from tests import clips as make_clips
from tests.clips import GOOD_CLIPS, Clip, Recipe

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("recipe", GOOD_CLIPS, ids=lambda recipe: recipe.name)
def test_times_and_size_are_those_that_were_encoded(clips: dict[str, Clip], recipe: Recipe) -> None:
    clip = clips[recipe.name]
    info = probe(clip.path)
    assert info.kind == "video"
    assert info.frame_times == pytest.approx(clip.times, abs=0.004)
    assert info.duration == pytest.approx(clip.duration, abs=0.004)
    assert (info.height, info.width) == recipe.size
    assert info.rotation == recipe.rotation
    assert info.audio == recipe.audio
    assert info.bit_depth == (10 if "10le" in recipe.pixel_format else 8)
    assert info.damage is None
    assert info.frame_times[0] == info.keyframe_times[0] == 0.0
    assert set(info.keyframe_times) <= set(info.frame_times)
    assert info.variable_frame_rate == (recipe.ticks is not None)
    assert info.size_bytes == clip.path.stat().st_size


@pytest.mark.parametrize(
    ("name", "container", "codec"),
    [
        ("plain.mp4", "mp4", "h264"),
        ("b_frames.mov", "mov", "h264"),
        ("b_frames.mkv", "matroska", "h264"),
        ("offset.ts", "mpegts", "h264"),
        ("mpeg4.avi", "avi", "mpeg4"),
        ("vp9.webm", "webm", "vp9"),
        ("av1.webm", "webm", "av1"),
        ("h265_10bit.mkv", "matroska", "hevc"),
        ("animated.gif", "gif", "gif"),
    ],
)
def test_container_and_codec_by_their_usual_names(
    clips: dict[str, Clip], name: str, container: str, codec: str
) -> None:
    info = probe(clips[name].path)
    assert (info.container, info.codec) == (container, codec)


def test_average_rate_of_even_and_uneven_clips(clips: dict[str, Clip]) -> None:
    assert probe(clips["plain.mp4"].path).average_fps == pytest.approx(12)
    assert probe(clips["variable.mp4"].path).average_fps == pytest.approx(13 / 4)


@pytest.mark.parametrize("name", ["b_frames.mkv", "vp9.webm", "mpeg4.avi"])
def test_a_truncated_clip_is_as_long_as_what_is_left_of_it(clips: dict[str, Clip], name: str) -> None:
    clip = make_clips.truncated(clips[name], 0.6, f"truncated_{name}")
    info = probe(clip.path)
    assert info.stated_duration == pytest.approx(4.0)
    assert 0 < info.duration < 3.5
    assert info.duration == pytest.approx(clip.times[info.frame_count], abs=0.004)
    assert info.damage == f"read {info.duration:.1f} of 4.0 s"


def test_a_truncated_mp4_still_claims_its_full_length(tmp_path: Path) -> None:
    whole = make_clips.make(tmp_path, Recipe("fast_start.mp4", muxer={"movflags": "faststart"}))
    info = probe(make_clips.truncated(whole, 0.7, "cut.mp4").path)
    assert info.stated_duration == pytest.approx(4.0)
    assert info.damage is not None
    assert info.damage.startswith(f"read {info.duration:.1f} of 4.0 s")


def test_a_ts_cut_open_begins_with_its_first_keyframe(clips: dict[str, Clip], tmp_path: Path) -> None:
    """A recording that starts in the middle of a group of pictures: what comes before the keyframe is no clip."""
    data = clips["offset.ts"].path.read_bytes()
    path = tmp_path / "cut_open.ts"
    path.write_bytes(data[188 * (len(data) // 188 // 3) :])
    info = probe(path)
    assert info.frame_times[0] == info.keyframe_times[0] == 0.0
    assert info.duration == pytest.approx(round(info.duration))  # keyframes are a second apart


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
def test_a_folder_of_images_is_a_clip_in_natural_order(tmp_path: Path, suffix: str) -> None:
    folder = make_clips.image_folder(tmp_path / "frames", 12, suffix)
    (folder / "notes.txt").write_text("not an image")
    info = probe(folder, images_fps=2.0)
    assert info.kind == "images"
    assert info.frame_times == tuple(i / 2 for i in range(12))
    assert info.duration == 6.0
    assert (info.height, info.width) == (96, 128)


def test_a_single_image_is_one_frame_and_exif_turns_it(tmp_path: Path) -> None:
    image = Image.fromarray(np.rot90(make_clips.picture(3)))
    exif = image.getexif()
    exif[0x0112] = 6  # turn clockwise to show
    image.save(tmp_path / "photo.jpg", exif=exif)
    info = probe(tmp_path / "photo.jpg")
    assert (info.kind, info.frame_count) == ("image", 1)
    assert (info.height, info.width) == (96, 128)


class TestBadInput:
    """Each fails with exit code 3, one line of what is wrong and one of what to do."""

    @staticmethod
    def refuse(path: Path, what: str, hint: str) -> None:
        with pytest.raises(UnreadableInput, match=what) as caught:
            probe(path)
        assert hint in caught.value.hint
        assert "\n" not in str(caught.value) + caught.value.hint

    def test_missing_file(self, tmp_path: Path) -> None:
        self.refuse(tmp_path / "nowhere.mp4", "does not exist", "Check the path")

    def test_web_address(self) -> None:
        self.refuse(Path("https://example.org/a.mp4"), "does not exist", "Download")

    def test_zero_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "empty.mp4").touch()
        self.refuse(tmp_path / "empty.mp4", "is empty", "again")

    @pytest.mark.parametrize("name", ["text.mp4", "text.txt"])
    def test_text(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("I am a text file.\n" * 50)
        self.refuse(tmp_path / name, "is not a video", "mp4, mov, mkv")

    def test_text_named_png(self, tmp_path: Path) -> None:
        (tmp_path / "text.png").write_text("I am a text file.\n" * 50)
        self.refuse(tmp_path / "text.png", "could not be read as an image", "image viewer")

    def test_audio_only(self, tmp_path: Path) -> None:
        self.refuse(make_clips.audio_only(tmp_path / "sound.mp4"), "no video stream, only audio", "picture")

    def test_cover_art_is_no_video(self, tmp_path: Path) -> None:
        self.refuse(make_clips.sound_with_cover(tmp_path / "song.m4a"), "no video stream, only audio", "picture")

    def test_mp4_cut_off_before_its_index(self, clips: dict[str, Clip]) -> None:
        self.refuse(make_clips.truncated(clips["plain.mp4"], 0.6, "no_moov.mp4").path, "moov", "record it again")

    def test_zero_duration(self, clips: dict[str, Clip]) -> None:
        self.refuse(make_clips.zero_duration(clips["plain.mp4"], "still.mp4"), "lasts 0 s", "timestamps")

    def test_no_decodable_frame(self, clips: dict[str, Clip]) -> None:
        clip = make_clips.corrupted(clips["b_frames.mkv"], range(48), "all_corrupt.mkv")
        self.refuse(clip.path, "no frame of all_corrupt.mkv could be decoded", "damaged")

    def test_empty_folder(self, tmp_path: Path) -> None:
        self.refuse(tmp_path, "holds no images", "png, jpg")

    def test_folder_of_videos(self, clips: dict[str, Clip]) -> None:
        self.refuse(clips["plain.mp4"].path.parent, "folder of videos", "purekv batch")

    def test_images_at_no_rate(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="0 images a second"):
            probe(make_clips.image_folder(tmp_path / "frames", 2), images_fps=0)


def test_the_video_side_knows_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, purekv_cli.video.decode, purekv_cli.video.probe, purekv_cli.video.sample;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_sampling_does_not_load_the_decoder() -> None:
    code = "import sys, purekv_cli.video.sample; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
