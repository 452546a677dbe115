"""Videos per hour of `batch` with decoding ahead, without, and of one `ask` after the other, on this machine.

By hand:  python -m tests.batch.measure_overlap

The clips are 720p H.264 with one keyframe, so most of the time goes into decoding. The model is the embedded one.
Rates of `batch` are its own: from the loaded model to the last answer. `ask` is timed as people run it, a process a
clip. Runs take turns; on a machine that others use as well only the best of several says something.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FLAGS = ("-q", "what happens?", "-m", "demo", "--frames", "16", "--max-pixels", "50176")


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


def batch(folder: Path, ledger: Path, decoders: str) -> float:
    """Videos an hour once the model is loaded."""
    command = [sys.executable, "-m", "purekv_cli", "batch", str(folder), "-o", str(ledger), *FLAGS]
    done = subprocess.run([*command, "--decoders", decoders], check=True, capture_output=True, text=True)
    found = re.search(r"videos, (\d+) videos/h", done.stderr)
    assert found is not None
    return float(found[1])


def ask(folder: Path) -> float:
    """Seconds for one process a clip, one after the other."""
    began = time.perf_counter()
    for path in sorted(folder.iterdir()):
        command = [sys.executable, "-m", "purekv_cli", "ask", str(path), *FLAGS, "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--decoders", default="0,1,2")
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
        rates: dict[str, list[float]] = {decoders: [] for decoders in asked.decoders.split(",")}
        for run in range(asked.runs):
            for decoders, found in rates.items():
                found.append(batch(folder, Path(temporary, f"{decoders}-{run}.jsonl"), decoders))
        each = 3600 / ask(few) * asked.asked
        print(f"ask, a process each: {each:.0f} videos/h")
        for decoders, found in rates.items():
            runs = ", ".join(f"{rate:.0f}" for rate in found)
            print(
                f"batch, {decoders} decoded ahead: {max(found):.0f} videos/h ({runs}), {max(found) / each:.2f}x of ask"
            )


if __name__ == "__main__":
    main()
