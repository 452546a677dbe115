from pathlib import Path

import pytest

from tests.clips import GOOD_CLIPS, Clip, make


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Clip]:
    """Every good clip, by file name."""
    folder: Path = tmp_path_factory.mktemp("clips")
    return {recipe.name: make(folder, recipe) for recipe in GOOD_CLIPS}
