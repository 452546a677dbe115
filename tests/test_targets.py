"""Files that were asked for: what cannot be written is said at once, and what to do."""

from pathlib import Path

import pytest

from purekv_cli.errors import UsageError
from purekv_cli.targets import check_target


@pytest.mark.parametrize(
    ("name", "hint"),
    [("x.txt", "Name it x.json or .md"), ("no/such/folder/x.json", "Create it"), ("folder.md", "Choose a file")],
)
def test_a_file_that_cannot_be_written_is_noticed(tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / "folder.md").mkdir()
    with pytest.raises(UsageError, match="cannot write") as caught:
        check_target(tmp_path / name, (".json", ".md"))
    assert hint in caught.value.hint


@pytest.mark.parametrize("path", ["new.json", "there.md", "LOUD.JSON", None])
def test_what_can_be_written_passes(tmp_path: Path, path: str | None) -> None:
    (tmp_path / "there.md").touch()
    check_target(path and tmp_path / path, (".json", ".md"))


@pytest.mark.parametrize("locked", [".", "x.md"])
def test_a_locked_folder_or_file_is_noticed(tmp_path: Path, locked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.md"
    target.touch()
    monkeypatch.setattr("os.access", lambda path, _: Path(path) != tmp_path / locked)  # root may write everywhere
    with pytest.raises(UsageError, match="cannot write"):
        check_target(target, (".md",))
