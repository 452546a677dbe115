"""What looking for scenes costs, how many cuts of rendered films it finds, and what frames then show of them.

    python -m tests.video.measure_scenes [SECONDS]

Cost: the bench's clip of so many seconds, 720p, 30 frames a second, a keyframe every 250 frames; "by keyframes" is how
longer clips are searched. Cuts: films of eight rendered clips, still and with a moving camera, of uneven lengths, four
frames a second, keyframes wherever they fall.
"""

import os
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from purekv_cli.bench.clip import write
from purekv_cli.demo.clips import make_clip
from purekv_cli.video import scenes
from purekv_cli.video.decode import decode
from purekv_cli.video.probe import probe
from purekv_cli.video.sample import SampleSpec, sample
from tests.clips import film

FILMS, PARTS, FPS = 12, 8, 4


def cost(folder: Path, seconds: float) -> None:
    path = folder / "clip.mp4"
    write(path, seconds)
    info = probe(path)
    print(f"{info.duration:.0f} s, {info.frame_count} frames, {os.cpu_count()} processors")
    frames = sample(info, SampleSpec(mode="uniform", frames=64))
    for name, most in (("64 frames", None), ("scenes", scenes.MOST_PIXELS), ("scenes by keyframes", 0)):
        began = time.perf_counter()
        if most is None:
            decode(info, frames, (560, 1008))
        else:
            scenes.MOST_PIXELS = most
            scenes.find_scenes(info, SampleSpec(mode="scene"))
        print(f"{name}: {time.perf_counter() - began:.2f} s")
    scenes.MOST_PIXELS = 3 * 10**10


def cut_film(path: Path, number: int) -> list[float]:
    """Write a film; when its clips begin, s."""
    draw, pictures, begins = random.Random(number), [], []
    for part in range(PARTS):
        clip = make_clip(number * PARTS + part, draw.choice(["long", "outdoors-long"]))
        begins.append(len(pictures) / FPS)
        length = round(2 ** draw.uniform(2, 7))  # 1 to 32 s
        pictures += [np.asarray(Image.fromarray(frame).resize((224, 224))) for frame in clip.frames()[:length]]
    film(path, pictures, FPS)
    return begins


def cuts(folder: Path) -> None:
    found = false = 0
    seen = {"uniform": 0, "scene": 0}
    for number in range(FILMS):
        begins = cut_film(folder / "film.mp4", number)
        info = probe(folder / "film.mp4")
        info = replace(info, scenes=scenes.find_scenes(info, SampleSpec(mode="scene")))
        starts = {round(scene.start * FPS) for scene in info.scenes[1:]}
        true = {round(begin * FPS) for begin in begins[1:]}
        found, false = found + len(starts & true), false + len(starts - true)
        for mode in seen:
            times = sample(info, SampleSpec(mode=mode, frames=2 * PARTS, group=2)).times  # type: ignore[arg-type]
            seen[mode] += len({max(i for i, begin in enumerate(begins) if begin <= time) for time in times})
    print(f"{found} of {FILMS * (PARTS - 1)} cuts found, {false} more")
    shown = ", ".join(f"{count} by {mode}" for mode, count in seen.items())
    print(f"clips seen with {2 * PARTS} frames a film of {PARTS}, of {FILMS * PARTS}: {shown}")


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        cost(Path(folder), float(sys.argv[1]) if len(sys.argv) > 1 else 60)
        cuts(Path(folder))
