"""Milliseconds to decode 64 frames of the bench's clip, by threads of each reader.

    python -m tests.video.measure_decode [SECONDS]

720p, 30 frames a second, a keyframe every 250 frames; scaled to 560 x 1008. Medians of five.
"""

import os
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from purekv_cli.bench.clip import write
from purekv_cli.video import parallel
from purekv_cli.video.decode import decode
from purekv_cli.video.info import VideoInfo
from purekv_cli.video.probe import probe
from purekv_cli.video.sample import SampleSpec, sample


def milliseconds(info: VideoInfo, threads: int) -> float:
    """With at most so many threads a reader."""
    parallel.MOST_THREADS = threads
    plan, spent = sample(info, SampleSpec(mode="uniform", frames=64)), []
    for _ in range(5):
        start = time.perf_counter()
        decode(info, plan, (560, 1008))
        spent.append(time.perf_counter() - start)
    return 1000 * median(spent)


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        write(path, float(sys.argv[1]) if len(sys.argv) > 1 else 30)
        info = probe(path)
        print(f"{info.duration:.0f} s, {len(info.keyframe_times)} groups, {os.cpu_count()} processors")
        for threads in (1, 2, 3, 4, 6, 8):
            print(f"at most {threads} threads a reader: {milliseconds(info, threads):.0f} ms", flush=True)
