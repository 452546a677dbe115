"""The file under both ledgers: one writer, whole lines, nothing lost when a write fails."""

import resource
from pathlib import Path

import pytest

from purekv_cli.errors import OutOfResources, UsageError
from purekv_cli.ledger import LineFile


def test_it_grows_and_is_cut(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "lines")
    file.append(b"one\ntwo\n")
    file.append(b"torn")
    assert list(file) == [b"one\n", b"two\n", b"torn"]
    file.cut(8)
    file.append(b"three\n")
    assert list(file) == [b"one\n", b"two\n", b"three\n"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    first = LineFile(tmp_path / "lines")
    with pytest.raises(UsageError, match="another run"):
        LineFile(tmp_path / "lines")
    first.close()
    LineFile(tmp_path / "lines").close()


def test_lines_that_belong_together_are_written_all_or_none(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "lines")
    file.append(b"one\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OutOfResources, match="cannot write"):
            file.append(b"two\nthree\nfour\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(file) == [b"one\n"]


@pytest.mark.parametrize("name", ["/dev/null", "/proc/self/nothing"])
def test_what_is_no_ordinary_file_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot write"):
        LineFile(Path(name))
