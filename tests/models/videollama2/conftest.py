"""The two language models of the golden sets, as folders in the released layout and as loaded adapters."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from purekv_cli.models import registry
from purekv_cli.video.frames import Frames
from tests.models.videollama2.released import CASES, write_released


@pytest.fixture(scope="session", params=sorted(CASES))
def released(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint's folder; read only."""
    return write_released(tmp_path_factory.mktemp("released") / request.param, request.param)


@pytest.fixture(scope="session")
def adapter(released: Path) -> Any:
    """It, loaded in float32."""
    return registry.load(registry.resolve(str(released)), "float32", "cpu")


def clip_of(count: int, height: int = 48, width: int = 68) -> Frames:
    """Noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    times = np.arange(count) * 0.5
    return Frames(pixels, times, times, 0.5, 0.0)
