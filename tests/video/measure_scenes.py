"""Seconds to look for scenes, beside those to decode 64 frames of the same clip.

    python -m tests.video.measure_scenes [SECONDS]

The bench's clip: 720p, 30 frames a second, a keyframe every 250 frames. "keyframes" is how longer clips are searched.
"""

import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from purekv_cli.bench.clip import write
from purekv_cli.video import scenes
from purekv_cli.video.decode import decode
from purekv_cli.video.probe import probe
from purekv_cli.video.sample import SampleSpec, sample

if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        write(path, float(sys.argv[1]) if len(sys.argv) > 1 else 60)
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
