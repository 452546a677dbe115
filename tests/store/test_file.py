"""A file is what was written, or it is refused."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purekv_cli.store import file
from purekv_cli.store.file import read
from purekv_cli.store.header import Damaged, read_header
from tests.runtime.adapter import TinyAdapter
from tests.store.kept import FEW, KEY, all_equal, engine, last, snapshot, through_a_file


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    adapter, path = TinyAdapter(), tmp_path_factory.mktemp("kept") / "0123.safetensors"
    session = engine(adapter).open(adapter.inputs("what?"))
    last(session.ask("what?", FEW))
    taken = snapshot(session)
    kept = through_a_file(taken, path, (("0:01", b"\xff\xd8 a picture"), ("0:02", b"x")))
    assert all_equal(kept.snapshot, taken)
    assert (kept.snapshot.probe, kept.snapshot.layout.grid) == (taken.probe, taken.layout.grid)
    assert torch.equal(kept.snapshot.layout.video, taken.layout.video)
    assert kept.damage == "read 1.0 of 2.0 s"
    assert kept.strip == (("0:01", b"\xff\xd8 a picture"), ("0:02", b"x"))
    assert read_header(path).facts == KEY.facts
    return path


def refused(path: Path) -> bool:
    try:
        read(path, read_header(path))
    except Damaged:
        return True
    return False


@settings(max_examples=60)
@given(data=st.data())
def test_a_byte_that_changed_is_noticed(written: Path, data: st.DataObject) -> None:
    whole = bytearray(written.read_bytes())
    header = 8 + int.from_bytes(whole[:8], "little")
    place = data.draw(st.one_of(st.integers(0, header - 1), st.integers(header, len(whole) - 1)))
    old = whole[place]
    whole[place] ^= 1 << data.draw(st.integers(0, 7))
    if place < header and chr(old) == " " and chr(whole[place]) in "\t\n\r ":
        return  # still the same JSON
    copy = written.with_name("copy.safetensors")
    copy.write_bytes(whole)
    assert refused(copy)


@settings(max_examples=30)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_that_was_cut_off_is_refused(written: Path, share: float) -> None:
    whole = written.read_bytes()
    copy = written.with_name("copy.safetensors")
    copy.write_bytes(whole[: int(share * len(whole))])
    assert refused(copy)
    assert not refused(written)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, there = written.read_bytes(), sorted(written.parent.iterdir())

    def torn(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    kept = read(written, read_header(written))
    monkeypatch.setattr(file, "save_file", torn)
    with pytest.raises(OSError, match="No space"):
        file.write(written, KEY, kept, file.tensors_of(kept))
    assert written.read_bytes() == before
    assert sorted(written.parent.iterdir()) == there
