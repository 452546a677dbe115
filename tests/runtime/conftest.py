"""Small models that several modules read prompts with, and tiles that fit such prompts."""

import pytest
from transformers import PreTrainedModel

from tests.runtime.fast_path import LAYERS
from tests.runtime.tiny import TEXT_FAMILIES, VIDEO_FAMILIES, tiny_model


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Query tiles of few rows, so that the pattern of a small prompt leaves out keys."""
    monkeypatch.setattr("purekv_cli.method.pattern.ROWS", 4)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model(layers=LAYERS)


@pytest.fixture(scope="module")
def families() -> dict[str, PreTrainedModel]:
    return {family: tiny_model(family, LAYERS) for family in (*VIDEO_FAMILIES, *TEXT_FAMILIES)}
