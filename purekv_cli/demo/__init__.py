"""The embedded demonstration: a small rendered world and a model of 9.5 million parameters that answers about it.

The world (world.py, staging.py, render.py) makes clips whose questions have known answers (language.py, wording.py);
the model has the stock Qwen2.5-VL architecture, was trained on that world alone (train.py) and ships with the package,
so that everything `purekv` does can be seen and measured without a download. Importing this package does not import
torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from purekv_cli.demo.clips import Clip

MODEL_DIR = Path(__file__).parent / "model"
NOTICE = (
    "Note: the demo model is a small demonstration model that knows only its own rendered world of coloured shapes."
)
SAMPLE_SEED = 21


def sample_clip(path: str | Path) -> Clip:
    """Write the sample clip (16 temporal patches of one second, 224 x 224) as mp4 and return it with its questions."""
    import random

    from purekv_cli.demo.clips import Clip, ask_all, write_clip
    from purekv_cli.demo.world import make_scene

    scene = make_scene(SAMPLE_SEED, 16)
    clip = Clip(SAMPLE_SEED, "short", scene, ask_all(scene, random.Random(SAMPLE_SEED)))
    write_clip(clip, path)
    return clip
