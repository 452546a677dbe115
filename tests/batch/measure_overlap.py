"""Videos per hour of `batch` with decoding ahead, without, and of one `ask` after the other, on this machine.

By hand:  python -m tests.batch.measure_overlap --clips 12

The clips are 720p H.264 with one keyframe, so most of the time goes into decoding. The model is the embedded one.
`ask` is timed as people run it, a process a clip, and by the time in which its model was loaded already, too: what is
left of `batch` without decoding ahead.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FLAGS = ("-q", "what happens?", "-m", "demo", "--frames", "16", "--max-pixels", "50176", "--quiet")


def write_clip(path: Path, seconds: int) -> None:
    """A texture that drifts: every frame has to be decoded, none is expensive to encode."""
    texture = np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        stream.codec_context.gop_size = 30 * seconds
        stream.codec_context.time_base = Fraction(1, 30)
        for index in range(30 * seconds):
            pixels = np.roll(texture, (3 * index, 5 * index), (0, 1))[:720, :1280]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def batch(folder: Path, ledger: Path, *more: str) -> tuple[float, float]:
    """(seconds in all, seconds from the first record to the last: without loading the model)."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "purekv_cli", "batch", str(folder), "-o", str(ledger), *FLAGS, *more]
    process = subprocess.Popen(command)
    first = 0.0
    while process.poll() is None:
        if not first and ledger.exists() and ledger.read_bytes().count(b"\n") > 1:
            first = time.perf_counter()
        time.sleep(0.005)
    if process.returncode:
        raise SystemExit(f"batch ended with {process.returncode}")
    end = time.perf_counter()
    return end - began, end - first


def ask(folder: Path) -> float:
    """Seconds for one process a clip, one after the other."""
    began = time.perf_counter()
    for path in sorted(folder.iterdir()):
        command = [sys.executable, "-m", "purekv_cli", "ask", str(path), *FLAGS]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--asked", type=int, default=3, help="clips that `ask` is timed with")
    asked = parser.parse_args()
    print(f"{asked.clips} clips, {os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}")
    with tempfile.TemporaryDirectory() as temporary:
        folder, few = Path(temporary, "clips"), Path(temporary, "few")
        folder.mkdir()
        few.mkdir()
        write_clip(folder / "clip000.mp4", asked.seconds)
        for index in range(1, asked.clips):
            shutil.copy(folder / "clip000.mp4", folder / f"clip{index:03d}.mp4")
        for index in range(asked.asked):
            shutil.copy(folder / "clip000.mp4", few / f"clip{index:03d}.mp4")
        best: dict[str, float] = {}
        for run in range(asked.runs):
            for name, decoders in (("one by one", "0"), ("decoding ahead", "1")):
                ledger = Path(temporary, f"{decoders}-{run}.jsonl")
                whole, warm = batch(folder, ledger, "--decoders", decoders)
                rate = (asked.clips - 1) / warm
                best[name] = max(best.get(name, 0.0), rate)
                stats = [json.loads(line)["stats"] for line in ledger.read_text().splitlines()[1:]]
                decode = sum(s["decode_seconds"] for s in stats) / len(stats)
                print(
                    f"batch, {name}: {whole:.1f} s in all, {3600 * rate:.0f} videos/h loaded; decoding {decode:.2f} s"
                )
        each = ask(few) / asked.asked
        print(f"ask, a process each: {each:.2f} s a video, {3600 / each:.0f} videos/h")
        print(f"ahead against one by one, once loaded: {best['decoding ahead'] / best['one by one']:.2f}x")
        print(f"ahead, once loaded, against a process each: {best['decoding ahead'] * each:.2f}x")


if __name__ == "__main__":
    main()
