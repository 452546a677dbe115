"""`decode` gives the right frames, by pixel content, from every kind of clip, and decodes few others."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from purekv_cli.errors import OutOfResources, UnreadableInput
from purekv_cli.video import decode as decoding
from purekv_cli.video.decode import decode
from purekv_cli.video.info import VideoInfo
from purekv_cli.video.probe import probe
from purekv_cli.video.reader import open_reader
from purekv_cli.video.sample import SamplePlan, SampleSpec, sample
from tests import clips as make_clips
from tests.clips import GOOD_CLIPS, Clip, Recipe, read_indices

NAMES = [recipe.name for recipe in GOOD_CLIPS]
SPECS = {
    "2 a second": SampleSpec(fps=2.0),
    "every frame": SampleSpec(fps=12.0),
    "7 of a range": SampleSpec(mode="uniform", frames=7, start=1.3, end=3.7),
    "keyframes": SampleSpec(mode="keyframes"),
}


def at(*times: float) -> SamplePlan:
    return SamplePlan(times, 1.0, 0.0, times[-1])


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("name", [name for name in NAMES if name != "one_frame.mp4"])
def test_sampled_frames_are_the_right_ones_by_pixel_content(
    clips: dict[str, Clip], name: str, spec: SampleSpec
) -> None:
    clip = clips[name]
    info = probe(clip.path)
    plan = sample(info, spec)
    frames = decode(info, plan)
    expected = [clip.index_at(time) for time in plan.times]
    assert read_indices(frames.pixels) == expected
    assert frames.pixels.shape == (len(plan.times), info.height, info.width, 3)
    assert frames.times == pytest.approx([clip.times[i] for i in expected], abs=0.004)
    assert (frames.times <= frames.targets).all()
    assert frames.seconds_per_frame == plan.seconds_per_frame
    assert frames.damage is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(48, 64), (84, 252), (196, 140)], ids=str)
def test_resized_frames_are_upright_and_of_the_size_asked_for(
    clips: dict[str, Clip], name: str, size: tuple[int, int]
) -> None:
    clip = clips[name]
    frames = decode(probe(clip.path), at(0.0, clip.times[-1]), size)
    assert frames.pixels.shape == (2, *size, 3)
    assert read_indices(frames.pixels) == [0, len(clip.times) - 1]


@cache
def everything(path: Path) -> tuple[tuple[float, ...], NDArray[np.uint8]]:
    """All frames the plain way: decode from the beginning, in one go."""
    times, pixels = [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for frame in container.decode(stream):
            times.append(float(frame.pts * stream.time_base))
            rgb = frame.reformat(frame.width, frame.height, "rgb24", interpolation="BICUBIC").to_ndarray()
            pixels.append(np.rot90(rgb, k=frame.rotation // 90))
    return tuple(time - times[0] for time in times), np.stack(pixels)


SEEKABLE = [
    "b_frames.mkv",
    "open_gop.mp4",
    "open_gop.mkv",
    "offset.ts",
    "mpeg2.ts",
    "mpeg4_b_frames.avi",
    "vp9.webm",
    "av1.webm",
]
SEEKABLE += ["animated.gif", "h265.mp4", "variable.mp4", "variable.mkv", "rotated_90.mp4", "ntsc.mkv", "long_gop.mp4"]


@pytest.mark.parametrize("threads", [None, 1], ids=["auto", "one thread"])
@pytest.mark.parametrize("name", SEEKABLE)
@settings(max_examples=12)
@given(targets=st.lists(st.floats(0, 0.999), min_size=1, max_size=12))
def test_planned_seek_equals_decoding_everything(
    clips: dict[str, Clip], name: str, threads: int | None, targets: list[float]
) -> None:
    path = clips[name].path
    info = probe(path)
    plan = at(*sorted(target * info.duration for target in targets))
    frames = decode(info, plan, threads=threads)
    times, pixels = everything(path)
    expected = [max(i for i, begins in enumerate(times) if begins <= t + 1e-9) for t in frames.targets]
    np.testing.assert_array_equal(frames.pixels, pixels[expected])
    np.testing.assert_allclose(frames.times, np.asarray(times)[expected], atol=1e-9)


def decoded_frames(info: VideoInfo, times: list[float]) -> int:
    """How many frames a planned seek for `times` decodes."""
    with open_reader(info, threads=1) as reader:
        for time in times:
            assert reader.last_at(info.ticks(info.frame_times[info.frame_at(time)])) is not None
        return reader.decoded


@pytest.mark.parametrize("name", ["long_gop.mp4", "b_frames.mkv", "offset.ts", "vp9.webm"])
@pytest.mark.parametrize("count", [8, 24])
def test_planned_seek_decodes_fewer_frames_than_a_seek_for_each(clips: dict[str, Clip], name: str, count: int) -> None:
    info = probe(clips[name].path)
    times = list(np.linspace(0, info.duration * 0.99, count))
    planned = decoded_frames(info, times)
    assert planned <= info.frame_count
    assert planned < sum(decoded_frames(info, [time]) for time in times)


@pytest.mark.parametrize("name", ["b_frames.mkv", "offset.ts", "long_gop.mp4"])
def test_frames_that_nobody_needs_are_skipped(clips: dict[str, Clip], name: str) -> None:
    info = probe(clips[name].path)
    wanted = [info.ticks(time) for time in info.frame_times[5::11]]
    with open_reader(info, threads=1) as every, open_reader(info, threads=1, wanted=frozenset(wanted)) as few:
        for ticks in wanted:
            (found, frame), (same, other) = few.last_at(ticks), every.last_at(ticks)
            assert found == same == ticks
            np.testing.assert_array_equal(frame.to_ndarray(), other.to_ndarray())
        assert few.sparing
        assert few.decoded < every.decoded


def test_codecs_that_cannot_tell_skip_nothing(clips: dict[str, Clip]) -> None:
    for name in ("h265.mp4", "vp9.webm", "h264_b_frames.avi", "raw.264"):  # the last two have no timestamps to go by
        with open_reader(probe(clips[name].path), None, frozenset({0})) as reader:
            assert not reader.sparing


@pytest.mark.parametrize("name", ["b_frames.mkv", "offset.ts", "h265.mp4", "vp9.webm", "mpeg4.avi"])
def test_a_far_target_costs_its_own_group_of_pictures_only(clips: dict[str, Clip], name: str) -> None:
    info = probe(clips[name].path)
    assert decoded_frames(info, [3.25]) <= 8


@pytest.mark.parametrize("name", ["b_frames.mkv", "open_gop.mp4", "offset.ts", "mpeg2.ts", "av1.webm"])
def test_a_keyframe_costs_itself_only(clips: dict[str, Clip], name: str) -> None:
    info = probe(clips[name].path)
    assert [decoded_frames(info, [time]) for time in info.keyframe_times[1:3]] == [1, 1]


@pytest.mark.parametrize("name", ["offset.ts", "sound.ts"])
def test_a_seek_that_lands_late_falls_back_to_an_earlier_keyframe(clips: dict[str, Clip], name: str) -> None:
    clip = clips[name]
    info = replace(probe(clip.path), seek_lead=-90_000)  # ts seeks by decoding time: this aims a second too late
    frames = decode(info, at(1.1, 2.05, 3.5))
    assert read_indices(frames.pixels) == [clip.index_at(t) for t in (1.1, 2.05, 3.5)]


class TestDamage:
    @pytest.mark.parametrize("name", ["b_frames.mkv", "vp9.webm", "mpeg4.avi", "offset.ts", "animated.gif"])
    def test_a_truncated_clip_gives_what_is_left_of_it(self, clips: dict[str, Clip], name: str) -> None:
        clip = make_clips.truncated(clips[name], 0.6, f"cut_{name}")
        info = probe(clip.path)
        plan = sample(info, SampleSpec(fps=4.0))
        frames = decode(info, plan)
        assert read_indices(frames.pixels) == [clip.index_at(time) for time in plan.times]
        assert (frames.damage is not None) == (info.stated_duration is not None)

    def test_a_truncated_mp4_says_how_much_was_read(self, tmp_path: Path) -> None:
        whole = make_clips.make(tmp_path, Recipe("whole.mp4", b_frames=2, muxer={"movflags": "faststart"}))
        clip = make_clips.truncated(whole, 0.8, "cut.mp4")
        info = probe(clip.path)
        plan = sample(info, SampleSpec(fps=6.0))
        frames = decode(info, plan)
        there = [clip.index_at(time) for time in info.frame_times]  # a B-frame before the last may be cut off
        assert 24 <= there[-1] < 47
        assert read_indices(frames.pixels) == [max(i for i in there if i <= clip.index_at(t)) for t in plan.times]
        assert frames.damage is not None
        assert frames.damage.startswith(f"read {info.duration:.1f} of 4.0 s")

    def test_targets_beyond_what_can_be_read_are_dropped_not_faked(self, clips: dict[str, Clip]) -> None:
        """The last second is there as packets, but none of them decodes."""
        clip = make_clips.corrupted(clips["b_frames.mkv"], range(36, 48), "bad_end.mkv")
        info = probe(clip.path)
        frames = decode(info, at(0.5, 1.5, 2.5, 3.5, 3.9))
        assert read_indices(frames.pixels) == [6, 18, 30]
        assert frames.targets.tolist() == [0.5, 1.5, 2.5]
        assert frames.damage is not None
        assert frames.damage.startswith("read 3.0 of 4.0 s; skipped ")

    def test_a_hole_is_bridged_by_the_last_readable_frame(self, clips: dict[str, Clip]) -> None:
        clip = make_clips.corrupted(clips["vp9.webm"], range(12, 24), "hole.webm")
        frames = decode(probe(clip.path), at(0.5, 1.5, 2.5), threads=1)
        assert read_indices(frames.pixels) == [6, 11, 30]
        assert frames.times == pytest.approx([0.5, 11 / 12, 2.5], abs=1e-3)
        assert frames.damage == "skipped 12 damaged packets; 1 of 3 frames missing, earlier ones stand in"

    @pytest.mark.parametrize("name", ["b_frames.mkv", "offset.ts", "h265.mp4", "vp9.webm", "mpeg4.avi"])
    def test_damaged_packets_harm_their_own_group_only(self, clips: dict[str, Clip], name: str) -> None:
        clip = make_clips.corrupted(clips[name], (14, 15), f"scratched_{name}")
        info = probe(clip.path)
        plan = at(*(time for time in clip.times if not 1.0 <= time < 2.0))
        frames = decode(info, plan, threads=1)
        assert read_indices(frames.pixels) == [clip.index_at(time) for time in plan.times]

    def test_a_stand_in_is_the_very_last_frame_before_the_hole(self, clips: dict[str, Clip]) -> None:
        """It was skipped at first: nobody had asked for it, and no frame refers to it."""
        clip = make_clips.corrupted(clips["b_frames.mkv"], range(24, 36), "hole.mkv")
        frames = decode(probe(clip.path), at(0.5, 2.5, 3.5), threads=1)
        assert read_indices(frames.pixels) == [6, 23, 42]

    def test_a_frame_that_the_decoder_had_to_guess_is_not_used(self, tmp_path: Path) -> None:
        """H.264 conceals the damaged keyframe at 2 s with an older picture and flags it."""
        clip = make_clips.corrupted(make_clips.make(tmp_path, Recipe(b_frames=2)), (24,), "guessed.mp4")
        frames = decode(probe(clip.path), at(0.5, 2.0), threads=1)
        assert read_indices(frames.pixels) == [6, 23]
        assert frames.damage == "skipped 1 damaged packet"

    def test_a_clip_readable_only_later_drops_the_beginning(self, clips: dict[str, Clip]) -> None:
        clip = make_clips.corrupted(clips["vp9.webm"], range(12), "bad_start.webm")
        frames = decode(probe(clip.path), at(0.2, 1.5, 2.0))
        assert read_indices(frames.pixels) == [18, 24]
        assert frames.damage is not None
        assert "nothing readable before 1.5 s" in frames.damage

    def test_nothing_readable_at_the_times_asked_for(self, clips: dict[str, Clip]) -> None:
        clip = make_clips.corrupted(clips["vp9.webm"], range(12, 48), "only_start.webm")
        info = probe(clip.path)
        with pytest.raises(UnreadableInput, match="no frame of only_start"):
            decode(info, at(2.0, 3.0))


class TestImages:
    def test_a_folder_in_natural_order(self, tmp_path: Path) -> None:
        info = probe(make_clips.image_folder(tmp_path / "frames", 12))
        frames = decode(info, sample(info, SampleSpec(fps=1.0)), (48, 64))
        assert read_indices(frames.pixels) == list(range(12))

    def test_an_unreadable_image_is_left_out_and_named(self, tmp_path: Path) -> None:
        folder = make_clips.image_folder(tmp_path / "frames", 4)
        (folder / "frame2.png").write_bytes(b"no image")
        info = probe(folder)
        frames = decode(info, sample(info, SampleSpec(fps=1.0)))
        assert read_indices(frames.pixels) == [0, 1, 3]
        assert frames.times.tolist() == [0.0, 1.0, 3.0]
        assert frames.damage == "skipped 1 unreadable image"

    def test_a_single_image_with_transparency_lies_on_white(self, tmp_path: Path) -> None:
        Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(tmp_path / "clear.png")
        info = probe(tmp_path / "clear.png")
        assert (decode(info, sample(info, SampleSpec())).pixels == 255).all()


def test_frames_that_an_edit_list_hides_are_not_part_of_the_clip(clips: dict[str, Clip]) -> None:
    clip = make_clips.trimmed(clips["b_frames.mov"], 6, "trimmed.mp4")
    info = probe(clip.path)
    assert info.duration == pytest.approx(clip.duration)
    assert info.damage is None
    frames = decode(info, at(0.0, 0.5, 1.5, 3.4))
    assert read_indices(frames.pixels) == [6, 12, 24, 46]


def test_the_same_frame_twice_is_decoded_once(clips: dict[str, Clip]) -> None:
    frames = decode(probe(clips["variable.mp4"].path), at(1.0, 1.2, 1.4))
    assert read_indices(frames.pixels) == [5, 5, 5]


def test_progress_is_told_for_every_frame(clips: dict[str, Clip]) -> None:
    told: list[tuple[int, int]] = []
    decode(probe(clips["plain.mp4"].path), at(0.0, 1.0, 2.0), on_frame=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("name", ["b_frames.mkv", "bad_end.mkv"])
def test_frames_are_handed_on_as_they_come_and_then_stay(clips: dict[str, Clip], name: str) -> None:
    clip = clips["b_frames.mkv"]
    if name == "bad_end.mkv":  # its last second does not decode
        clip = make_clips.corrupted(clip, range(36, 48), name)
    seen: list[NDArray[np.uint8]] = []

    def take(pixels: NDArray[np.uint8], first: int, stop: int) -> None:
        assert len(pixels) == 5
        assert first == len(seen)
        seen.extend(pixels[first:stop].copy())

    frames = decode(probe(clip.path), at(0.5, 1.5, 1.5, 2.5, 3.9), on_pixels=take)
    assert len(frames.pixels) == (4 if name == "bad_end.mkv" else 5)
    np.testing.assert_array_equal(np.stack(seen), frames.pixels)


def test_images_are_handed_on_too(tmp_path: Path) -> None:
    folder = make_clips.image_folder(tmp_path / "frames", 4)
    (folder / "frame2.png").write_bytes(b"no image")
    info = probe(folder)
    slots: list[tuple[int, int]] = []
    decode(info, sample(info, SampleSpec(fps=1.0)), on_pixels=lambda _, first, stop: slots.append((first, stop)))
    assert slots == [(0, 1), (1, 2), (2, 3)]


def test_ctrl_c_passes_through(clips: dict[str, Clip]) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode(probe(clips["long_gop.mp4"].path), at(0.0, 1.0, 4.0), on_frame=interrupt)


def test_frames_that_cannot_fit_are_refused_before_decoding(
    clips: dict[str, Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "free_memory", lambda: 100_000)
    with pytest.raises(OutOfResources, match="3 frames of 128 x 96") as caught:
        decode(probe(clips["plain.mp4"].path), at(0.0, 1.0, 2.0))
    assert "--max-frames" in caught.value.hint
