"""How much sooner a later question is answered: the first watches the clip, the second finds it in the cache on disk.

    python -m purekv_cli.bench.second_question                           the embedded model, on the CPU
    python -m purekv_cli.bench.second_question --shape 7b --tokens 32k   random weights, on a GPU

Both questions are asked of a process that is warm and has the model, and counted from the moment the file is named:
the file's digest, the plan and the reading of the cache are in the second one's time, probe, decoding and the vision
tower in the first one's. No two questions have the same length, so nothing is prepared for one. The second answer must
have the tokens that it has without a cache. With the embedded model whole processes are timed too, which shows what is
left for `purekv ask`: mostly imports.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from purekv_cli.bench.request import read_counts

if TYPE_CHECKING:
    import torch

    from purekv_cli.models.base import Adapter
    from purekv_cli.settings import Settings
    from purekv_cli.store.folder import Folder

FIRST, WARM = "What happens in the video?", "And who is there?"
LATER = (
    "Which shape moves first, and where to?",
    "How many circles are there at the end of it?",
    "What is on the left of the red square?",
)
SHAPES = ("3b", "7b", "32b", "72b")  # of Qwen2.5-VL, with their vision tower
LIMIT = 100 * 2**30  # bytes: nothing is evicted here


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of one question."""

    first_token: float  # from the naming of the file
    plan: float  # probe or digest, sampling, sizes
    key: float  # of what is kept; of a first question the digest too
    recall: float  # of the cache, onto the device
    watched: float  # decoding and vision
    prefill: float  # of what was read anew
    keep: float  # writing the cache, after the answer
    tokens: tuple[int, ...]
    prompt: int
    bytes: int  # of the cache

    @property
    def rest(self) -> float:
        """Events, embedding, drawing."""
        return self.first_token - self.plan - self.key - self.recall - self.watched - self.prefill


def asked(clip: Path, question: str, adapter: "Adapter", settings: "Settings", folder: "Folder | None") -> Spent:
    """One question about a file; without a folder nothing is kept or found."""
    from purekv_cli.demo import MODEL_DIR
    from purekv_cli.pipeline import Run, make_plan
    from purekv_cli.runtime.events import Event, Progress
    from purekv_cli.runtime.sampling import Generation
    from purekv_cli.store.content import forget, stamp
    from purekv_cli.store.key import make_key
    from purekv_cli.store.probed import known_or_probed
    from purekv_cli.store.shelf import Shelf
    from purekv_cli.terminal import Terminal
    from purekv_cli.video.probe import probe

    forget()  # the digest: a process of its own would not know it
    dtype, marks = adapter.model.dtype, [time.perf_counter()]
    info = probe(clip) if folder is None else known_or_probed(clip, folder)
    plan = make_plan(info, adapter.geometry, [adapter.name], settings, dtype.itemsize)
    marks.append(time.perf_counter())
    shelf = None
    if folder is not None:
        key = make_key(plan, adapter.name, MODEL_DIR, dtype, adapter.device, "auto")
        shelf = Shelf(plan, key, folder, LIMIT, stamp(clip), Terminal(quiet=True), adapter.device)
    marks.append(time.perf_counter())
    run, first = Run(plan, shelf=shelf), []
    run.recall()

    def tell(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "answer":
            first.append(time.perf_counter())

    (answer,) = run.ask(adapter, [question], Generation(max_tokens=settings.model.max_tokens), tell)
    done = time.perf_counter()
    run.keep()
    stats = answer.stats
    return Spent(
        first_token=first[0] - marks[0],
        plan=marks[1] - marks[0],
        key=marks[2] - marks[1],
        recall=stats.recall_seconds,
        watched=stats.decode_seconds + stats.vision_seconds,
        prefill=stats.prefill_seconds,
        keep=time.perf_counter() - done,
        tokens=answer.token_ids,
        prompt=stats.prompt_tokens,
        bytes=stats.kv_bytes_kept,
    )


def adapter_of(shape: str, device: "torch.device", dtype: "torch.dtype") -> "Adapter":
    """Random weights behind the embedded model's tokenizer and chat template."""
    from transformers import AutoTokenizer

    from purekv_cli.bench.shapes import build
    from purekv_cli.demo import MODEL_DIR
    from purekv_cli.models.geometry import ModelGeometry
    from purekv_cli.models.hub import read_json
    from purekv_cli.models.qwen_vl import QwenVL

    model = build(shape, device, dtype)
    geometry = ModelGeometry.from_config(model.config.to_dict())
    known = read_json(MODEL_DIR / "config.json")
    for name in ("video_token_id", "image_token_id", "vision_start_token_id", "vision_end_token_id"):
        setattr(model.config, name, known[name])
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR, local_files_only=True)
    return QwenVL.of(f"shape {shape}", MODEL_DIR, model, tokenizer, geometry, {})


def measure(adapter: "Adapter", clips: Sequence[Path], settings: "Settings", folder: Path, runs: int) -> list[str]:
    """A table; the first clip warms the process up."""
    from purekv_cli.report.units import size, span
    from purekv_cli.store.folder import Folder

    warm, clip = clips
    shelf = Folder(folder)
    for question in (FIRST, WARM):
        asked(warm, question, adapter, settings, shelf)
    pairs, same = [], True
    for _, later in zip(range(runs), cycle(LATER), strict=False):
        shelf.clear(shelf.entries())
        pairs.append([asked(clip, question, adapter, settings, shelf) for question in (FIRST, later)])
        truth = asked(clip, later, adapter, settings, None)
        same &= pairs[-1][1].tokens == truth.tokens
    firsts, seconds = zip(*pairs, strict=True)
    rows = {
        "probe or digest, and plan": "plan",
        "key of the cache": "key",
        "decoding and vision": "watched",
        "reading the cache": "recall",
        "prefill": "prefill",
        "rest": "rest",
        "first token after": "first_token",
        "writing the cache, after the answer": "keep",
    }
    lines = ["| | first question | second question |", "|---|---|---|"]
    for label, name in rows.items():
        a, b = (span(median(getattr(spent, name) for spent in column)) for column in (firsts, seconds))
        lines.append(f"| {label} | {a} | {b} |")
    ratio = median(f.first_token / s.first_token for f, s in zip(firsts, seconds, strict=True))
    dtype = str(adapter.model.dtype).removeprefix("torch.")
    head = f"{adapter.name}, {dtype} on {adapter.device}: {truth.prompt} tokens, {size(truth.bytes)} kept, "
    head += f"median of {runs}"
    verdict = "the same tokens as without a cache" if same else "OTHER TOKENS than without a cache"
    return [head, "", *lines, "", f"The second question's first token comes {ratio:.1f} times sooner; {verdict}."]


def processes(clip: Path, home: Path) -> list[str]:
    """Two whole `purekv ask` of the embedded model."""
    command = [sys.executable, "-m", "purekv_cli", "ask", str(clip), FIRST, "-m", "demo", "--observe", "template"]
    lines = []
    for which in ("first", "second"):
        began = time.perf_counter()
        subprocess.run(command, env=os.environ | {"XDG_CACHE_HOME": str(home)}, capture_output=True, check=True)
        lines.append(f"whole process, {which} question: {time.perf_counter() - began:.1f} s")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, help="random weights; left out: the embedded model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tokens", default="4k", help="length of the prompt, about")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    from purekv_cli.bench.clip import SIZE, write
    from purekv_cli.models.placement import choose_device, choose_dtype
    from purekv_cli.models.registry import DEMO, load, resolve
    from purekv_cli.settings import ClipSettings, MethodSettings, ModelSettings, Settings

    device = choose_device(given.device)
    if given.shape:
        adapter = adapter_of(given.shape, device, choose_dtype("auto", device))
    else:
        adapter = load(resolve(DEMO), "auto", str(device))
    pixels = SIZE if given.shape else (224, 224)
    (tokens,) = read_counts(given.tokens)
    frames = max(2, round(tokens / adapter.geometry.tokens_per_frame(*pixels)))
    settings = Settings(
        clip=ClipSettings(frames=frames, max_frames=frames),
        method=MethodSettings(observe="template", budget="0.2"),
        model=ModelSettings(max_tokens=8),
    )
    with TemporaryDirectory(prefix="purekv-second-question-") as home:
        clips = [Path(home, f"{name}.mp4") for name in ("warm", "clip")]
        for extra, clip in enumerate(clips):  # not the same clip twice
            write(clip, max(16, frames / 4) + extra / 10, pixels)
        print("\n".join(measure(adapter, clips, settings, Path(home, "kv"), given.runs)))
        if not given.shape:
            print("\n".join(processes(clips[1], Path(home, "cache"))))


if __name__ == "__main__":
    main()
