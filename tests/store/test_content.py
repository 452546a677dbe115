"""A clip is its bytes: not its name, its place or its time."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from purekv_cli.store import content
from purekv_cli.store.content import digest, stamp


@given(data=st.binary(min_size=1, max_size=40), place=st.integers(min_value=0))
def test_one_other_byte_is_another_clip(tmp_path_factory: pytest.TempPathFactory, data: bytes, place: int) -> None:
    folder = tmp_path_factory.mktemp("clips")
    before, piece = folder / "a.mp4", content.PIECE
    content.PIECE = 7  # several pieces, and a last one that is not full
    try:
        before.write_bytes(data)
        changed = bytearray(data)
        changed[place % len(data)] ^= 1
        (folder / "b.mp4").write_bytes(changed)
        (folder / "c.mp4").write_bytes(data + data[-1:])
        (folder / "renamed.mkv").write_bytes(data)
        others = [digest(folder / name) for name in ("b.mp4", "c.mp4")]
        assert digest(before) not in others
        assert digest(before) == digest(folder / "renamed.mkv")
    finally:
        content.PIECE = piece


def test_a_folder_is_its_images_in_their_order(tmp_path: Path) -> None:
    for name, colour in (("1.png", "red"), ("2.png", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / name)
    before = digest(tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    assert digest(tmp_path) == before
    (tmp_path / "1.png").rename(tmp_path / "3.png")
    assert digest(tmp_path) != before


def test_a_write_shows_even_if_size_and_time_are_put_back(tmp_path: Path) -> None:
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"before")
    state, seen = clip.stat(), stamp(clip)
    while stamp(clip) == seen:  # the clock of a file system is coarse
        clip.write_bytes(b"behind")
        os.utime(clip, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert stamp(clip) != seen
