"""Which families are told when a frame is in the video: those count from its beginning, the others from the clip's."""

from pathlib import Path

import numpy as np
import pytest

from purekv_cli.models import registry
from purekv_cli.video.frames import Frames
from tests.models.families import SAMPLES


@pytest.mark.parametrize("family", SAMPLES)
def test_families_that_write_times_are_marked(family: str, tmp_path: Path) -> None:
    source = registry.resolve(str(SAMPLES[family].write(tmp_path / family)))
    assert source.geometry is not None
    adapter = registry.load(source, "float32", "cpu")
    pixels = np.random.default_rng(3).integers(0, 256, (4, 56, 84, 3), dtype=np.uint8)

    def prompt(start: float) -> list[int]:
        times = start + np.arange(4.0)
        ids: list[int] = adapter.prepare(Frames(pixels, times, times, 1.0, 0.0), "?").input_ids[0].tolist()
        return ids

    assert (prompt(0.0) != prompt(600.0)) == source.geometry.stamped
