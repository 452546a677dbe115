"""What a million videos need: `python -m purekv_cli.batch.capacity`, the arithmetic behind docs/scaling.md.

Decoding (CPU) and answering (GPU) overlap, so a GPU with `cores` beside it takes max(gpu, cpu / cores) seconds a video;
whichever is larger is the bottleneck. Without overlap it takes their sum. Costs are prices times that time.
Measured figures are those of docs/benchmarks (2026-11-21): Qwen2.5-VL-7B in bf16 with random weights on one H200, 64
frames of a 120 s 720p H.264 clip. Prices, lengths and rates of failure are assumptions, and flags.
"""

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from purekv_cli.batch.job import Item, jobs_of
from purekv_cli.batch.ledger import FAILED, Ledger

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Way:
    """Seconds of GPU that one way of running takes for a clip of 23136 prompt tokens."""

    name: str
    vision: float  # s a clip: docs/benchmarks/2026-11-21-vision.md, "Tower"
    prefill: float  # s a prefill: 2026-11-21-bench-7b-h200.md, "From the file to the first token"
    token: float  # s a token at 32K: the same page, "First token and decoding"

    def seconds(self, questions: int, tokens: int, shared: bool) -> float:
        """Of GPU, for one clip."""
        return self.vision + self.prefill * (1 if shared else questions) + questions * tokens * self.token


WAYS = (
    Way("dense, transformers", 1.545, 0.736, 0.0136),
    Way("dense, purekv engine", 0.242, 0.631, 0.00461),
    Way("purekv 0.2", 0.242, 0.537, 0.00431),
    Way("purekv 0.2, 0.35 from layer 4", 0.242, 0.230, 0.00425),
    Way("purekv 0.2, 0.2 from layer 4", 0.242, 0.154, 0.00417),
)
DECODE = 16 * 0.301  # core seconds a clip, at most: 16 cores for 301 ms (2026-11-21-vision.md, "Decoding")
CLIP_SECONDS = 120
CLIP_BYTES = 18 * MIB


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is not measured. Each is a flag of the command."""

    videos: int = 1_000_000
    questions: int = 1  # a video
    tokens: int = 64  # an answer
    shared: bool = False  # questions share a prefill (--observe template)
    gpus: int = 8
    cores: int = 16  # beside each GPU
    gpu_price: float = 3.0  # USD an hour
    core_price: float = 0.04  # USD an hour
    deaths: float = 1e-4  # workers that die, a video
    load: float = 60.0  # s to start a worker again


@dataclass(frozen=True, slots=True)
class Need:
    """What one way needs under the assumptions."""

    gpu: float  # s a video
    cpu: float  # s a video, on the cores beside one GPU
    one_by_one: float  # s a video without overlap
    overlapped: float  # s a video, restarts included
    cores: float  # beside a GPU, so that decoding does not hold it up
    days: float
    read: float  # bytes a second from disk, all GPUs
    per_hour: float  # USD an hour of video
    records: float  # ledger lines a second

    @property
    def bottleneck(self) -> str:
        return "decoding" if self.cpu > self.gpu else "GPU"


def need(way: Way, given: Assumptions) -> Need:
    """The calculation, for one way of running."""
    gpu = way.seconds(given.questions, given.tokens, given.shared)
    cpu = DECODE / given.cores
    restart = given.deaths * (given.load + max(gpu, cpu))
    overlapped = max(gpu, cpu) + restart
    a_second = given.gpus / overlapped  # videos
    price = given.gpu_price + given.cores * given.core_price  # USD an hour of one GPU and its cores
    return Need(
        gpu=gpu,
        cpu=cpu,
        one_by_one=gpu + cpu + restart,
        overlapped=overlapped,
        cores=DECODE / gpu,
        days=given.videos / a_second / 86400,
        read=a_second * CLIP_BYTES,
        per_hour=price * overlapped / CLIP_SECONDS,
        records=a_second * given.questions,
    )


def table(given: Assumptions) -> str:
    """Markdown: one row a way."""
    head = ["", "GPU s", "CPU s", "s a video", "one by one", "bound by", "cores a GPU needs"]
    head += ["days", "disk MiB/s", "USD an hour of video"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for way in WAYS:
        n = need(way, given)
        cells = (f"{n.gpu:.2f}", f"{n.cpu:.2f}", f"{n.overlapped:.2f}", f"{n.one_by_one:.2f}", n.bottleneck)
        sums = (f"{n.cores:.1f}", f"{n.days:.2f}", f"{n.read / MIB:.0f}", f"{n.per_hour:.4f}")
        lines.append(f"| {' | '.join((way.name, *cells, *sums))} |")
    return "\n".join(lines)


def item_bytes(count: int = 10_000) -> float:
    """Bytes of memory that the driver holds for an item: what is asked, its job, and its key in the ledger."""
    tracemalloc.start()
    items = [Item(f"/videos/part{index // 100:05d}/clip{index:08d}.mp4", "what happens?") for index in range(count)]
    held = jobs_of(items), {item.key: FAILED for item in items}
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return size / len(held[1])


def ledger_rate(folder: Path, records: int = 200) -> float:
    """Records a second that the ledger takes on this disk, each synced: the driver's own limit."""
    ledger = Ledger(folder / "rate.jsonl")
    try:
        ledger.begin({})
        began = time.perf_counter()
        for index in range(records):
            ledger.append(
                {"video": f"/videos/{index}.mp4", "question": "why?", "status": "answered", "answer": "x" * 300}
            )
        return records / (time.perf_counter() - began)
    finally:
        ledger.close()


def _flags() -> Iterator[tuple[str, dict[str, object]]]:
    for field in fields(Assumptions):
        more: dict[str, object] = {"default": field.default}
        more |= {"action": "store_true"} if field.type is bool else {"type": field.type}
        yield f"--{field.name.replace('_', '-')}", more


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    for flag, options in _flags():
        parser.add_argument(flag, **options)  # type: ignore[arg-type]
    parser.add_argument("--ledger", action="store_true", help="measure this disk's ledger, too")
    asked = vars(parser.parse_args())
    measured = asked.pop("ledger")
    print(table(Assumptions(**asked)))
    if measured:
        with tempfile.TemporaryDirectory(dir=".") as temporary:
            print(f"\nledger: {ledger_rate(Path(temporary)):.0f} records a second, each synced")
        print(f"driver: {item_bytes():.0f} bytes of memory an item")
