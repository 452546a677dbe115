"""Folders of stub clips."""

from collections.abc import Callable
from pathlib import Path

import pytest

Stubs = Callable[..., Path]


@pytest.fixture
def stubs(tmp_path: Path) -> Stubs:
    """Writes a folder of clips: one a keyword, named by it, whose text is how it behaves."""

    def write(**behaviours: str) -> Path:
        folder = tmp_path / "clips"
        folder.mkdir(exist_ok=True)
        for name, word in behaviours.items():
            (folder / f"{name}.mp4").write_text(word)
        return folder

    return write
