"""Files within their limit, whoever else is at work."""

import multiprocessing
import os
import shutil
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.store import file
from purekv_cli.store import folder as module
from purekv_cli.store.file import Kept
from purekv_cli.store.folder import Folder, NotKept
from purekv_cli.store.header import read_header
from tests.runtime.adapter import TinyAdapter
from tests.store.kept import FEW, KEY, all_equal, engine, last, snapshot, through_a_file

LIMIT = 1000
FORK = multiprocessing.get_context("fork")  # a process that has torch already


def put(folder: Folder, name: str, bytes_: int) -> Path:
    """As a shelf does, with bytes that mean nothing."""
    place = folder.place(name)
    folder.make_room(bytes_, LIMIT, place)
    place.write_bytes(b"x" * bytes_)
    return place


def used(place: Path, seconds_ago: float) -> None:
    os.utime(place, (time.time() - seconds_ago,) * 2)


def names(folder: Folder) -> set[str]:
    return {entry.path.stem for entry in folder.entries()}


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "kv")
    for name, age in (("a", 30), ("b", 20), ("c", 10)):
        used(put(folder, name, 300), age)
    folder.touch(folder.place("a"))
    put(folder, "d", 300)
    assert names(folder) == {"a", "c", "d"}


def test_what_is_replaced_counts_no_more(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "kv")
    used(put(folder, "a", 500), 30)
    put(folder, "b", 500)
    put(folder, "b", 400)
    assert names(folder) == {"a", "b"}


@given(sizes=st.lists(st.integers(0, 1500), max_size=12))
def test_never_more_than_the_limit(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    folder = Folder(tmp_path_factory.mktemp("home") / "kv")
    for number, bytes_ in enumerate(sizes):
        try:
            put(folder, str(number), bytes_)
        except NotKept:
            assert bytes_ > LIMIT
            continue
        assert str(number) in names(folder)
        assert sum(entry.bytes for entry in folder.entries()) <= LIMIT


def test_nothing_goes_for_what_will_never_fit(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "kv")
    put(folder, "a", 300)
    with pytest.raises(NotKept, match="cache-limit"):
        put(folder, "b", LIMIT + 1)
    assert names(folder) == {"a"}


def test_a_disk_that_is_nearly_full_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, module.SPARE + 100))
    folder = Folder(tmp_path / "kv")
    put(folder, "a", 100)
    with pytest.raises(NotKept, match="free on the disk"):
        put(folder, "b", 101)


def test_the_folder_is_for_its_user_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "kv")
    put(folder, "a", 1)
    assert folder.path.stat().st_mode & 0o777 == 0o700


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    adapter = TinyAdapter()
    session = engine(adapter).open(adapter.inputs("what?"))
    last(session.ask("what?", FEW))
    return through_a_file(snapshot(session), tmp_path_factory.mktemp("kept") / "a")  # no tensor on a GPU: we fork


def write_often(place: Path, kept: Kept) -> None:
    for _ in range(50):
        file.write(place, KEY, kept, file.tensors_of(kept))


def write_slowly(place: Path, kept: Kept, begun: Any) -> None:
    whole = file.save_file

    def hangs(tensors: Any, path: Path, metadata: Any) -> None:
        whole(tensors, path, metadata)
        begun.set()
        time.sleep(60)

    file.save_file = hangs
    file.write(place, KEY, kept, file.tensors_of(kept))


def test_a_writer_that_is_killed_leaves_nothing_that_counts(tmp_path: Path, kept: Kept) -> None:
    folder, begun = Folder(tmp_path), FORK.Event()
    writer = FORK.Process(target=write_slowly, args=(folder.place("a"), kept, begun))
    writer.start()
    assert begun.wait(30)
    writer.kill()
    writer.join()
    (left,) = tmp_path.iterdir()
    assert folder.entries() == []
    assert folder.clear([]) == 0  # it might still be at work
    used(left, 3600)
    bytes_ = left.stat().st_size
    assert folder.clear([]) == bytes_
    assert list(tmp_path.iterdir()) == []


def test_two_writers_and_a_reader_meet_only_whole_files(tmp_path: Path, kept: Kept) -> None:
    place, reads = Folder(tmp_path).place("a"), 0
    writers = [FORK.Process(target=write_often, args=(place, kept)) for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if place.exists():
            header = read_header(place)
            assert all_equal(file.read(place, header).snapshot, kept.snapshot)
            reads += 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert reads
    assert [path.name for path in tmp_path.iterdir()] == [place.name]
