"""Accuracy on the embedded world's held-out clips, from mp4 files, through the whole path of `purekv ask`.

    python -m purekv_cli.eval.clipworld --suite medium --clips 200 --budget 0.2 --out results.jsonl

Every clip is rendered from its seed, written as H.264, probed, sampled at its own frame times, decoded, and asked
questions of different types; answers are generated greedily and compared by exact match up to case and punctuation. One
JSON line an answer goes to --out, the table to stdout. `--way replay` comes to the same results many times faster.
"""

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from purekv_cli.demo.clips import SUITES, Clip, make_clip, write_clip
from purekv_cli.demo.language import Question
from purekv_cli.eval.arms import WHENS, Arm, When, arms
from purekv_cli.eval.fragments import split_part
from purekv_cli.eval.records import Graded, Item
from purekv_cli.models.geometry import ModelGeometry
from purekv_cli.video.decode import decode
from purekv_cli.video.frames import Frames
from purekv_cli.video.probe import probe
from purekv_cli.video.sample import SampleSpec, sample

if TYPE_CHECKING:
    from purekv_cli.models.base import Adapter

_NAME = "clipworld/"


def chosen_questions(clip: Clip, count: int | None) -> list[Question]:
    """The narration, and others drawn by the clip's seed; all of them if `count` is None."""
    questions = list(clip.questions)
    if count is None or len(questions) <= count:
        return questions
    narration = [q for q in questions if q.type == "narration"]
    others = [q for q in questions if q.type != "narration"]
    return narration + random.Random(f"questions {clip.seed}").sample(others, count - len(narration))


def items_of(clip: Clip, count: int | None = None) -> list[Item]:
    """The clip's questions as items."""
    video = f"{_NAME}{clip.suite}/{clip.seed}"
    return [
        Item(clip.suite, video, f"{video}/{question.type}", question.type, question.text, question.answer)
        for question in chosen_questions(clip, count)
    ]


def clip_frames(clip: Clip, geometry: ModelGeometry) -> Frames:
    """The clip's own frames, as its mp4 file gives them back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(clip, path)
        info = probe(path)
        plan = sample(info, SampleSpec(fps=1 / clip.seconds_per_frame, max_frames=info.frame_count))
        return decode(info, plan, geometry.frame_size(info.height, info.width), threads=1)


def frames_of(video: str, adapter: "Adapter") -> Frames:
    """The frames of an item's video: a clip of this world by its name, or a file (or part of one), sampled as usual."""
    if video.startswith(_NAME):
        _, suite, seed = video.split("/")
        return clip_frames(make_clip(int(seed), suite), adapter.geometry)
    path, start, end = split_part(video)
    info = probe(path)
    plan = sample(info, SampleSpec(start=start, end=end))
    return decode(info, plan, adapter.geometry.frame_size(info.height, info.width))


def videos(
    suite: str,
    seeds: Iterable[int],
    geometry: ModelGeometry,
    *,
    questions: int | None = None,
    unseen_wordings: bool = False,
    workers: int = 0,
) -> Iterator[tuple[list[Item], Frames]]:
    """Every clip's items and frames, in order; with workers, made by so many processes ahead of who asks for them."""
    requests = [(seed, suite, unseen_wordings, geometry, questions) for seed in seeds]
    if not workers:
        yield from map(_made, requests)
        return
    waiting: deque[Future[tuple[list[Item], Frames]]] = deque()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _one_thread) as pool:
        try:
            for request in requests:
                waiting.append(pool.submit(_made, request))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _made(request: tuple[int, str, bool, ModelGeometry, int | None]) -> tuple[list[Item], Frames]:
    seed, suite, unseen_wordings, geometry, questions = request
    clip = make_clip(seed, suite, unseen_wordings)
    return items_of(clip, questions), clip_frames(clip, geometry)


@dataclass(frozen=True, slots=True)
class Request:
    """A clip, its questions and the arms to grade them in: what a worker process is given."""

    suite: str
    seed: int
    arms: tuple[Arm, ...]
    questions: int | None = None
    unseen_wordings: bool = False


def graded(
    requests: Iterable[Request], *, model: str = "demo", device: str = "auto", way: str = "replay", workers: int = 1
) -> Iterator[list[Graded]]:
    """Every clip's answers, in order, from worker processes that each hold the model, make clips and grade them.

    A small model keeps a GPU busy only from several processes at once: most of a clip's time goes into launches.
    """
    waiting: deque[Future[list[Graded]]] = deque()
    context, given = multiprocessing.get_context("spawn"), (model, device, way)
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=given) as pool:
        try:
            for request in requests:
                waiting.append(pool.submit(_work, request))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


_way: Any = None  # of a worker process


def _start_worker(model: str, device: str, way: str) -> None:
    global _way
    from purekv_cli.eval.engine_way import EngineWay
    from purekv_cli.eval.replay import ReplayWay
    from purekv_cli.models.registry import load, resolve

    _one_thread()
    adapter = load(resolve(model, offline=True), device=device)
    _way = EngineWay(adapter) if way == "engine" else ReplayWay(adapter)


def _work(request: Request) -> list[Graded]:
    clip = make_clip(request.seed, request.suite, request.unseen_wordings)
    return list(_way.grade(items_of(clip, request.questions), request.arms))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", action="append", choices=list(SUITES), help="repeatable (default: medium)")
    parser.add_argument("--clips", type=int, default=200, help="per suite")
    parser.add_argument("--first-seed", type=int, default=0, help="seeds of held-out clips count from here")
    parser.add_argument("--questions", type=int, help="per clip, the narration among them (default: all)")
    parser.add_argument("--policy", default="purekv,purekv-paper,random", help="besides dense")
    parser.add_argument("--budget", default="0.2", help="comma-separated")
    parser.add_argument("--when", default=",".join(WHENS), help="moments of pruning: unknown, known, prompt")
    parser.add_argument("--unseen-wordings", action="store_true", help="ask in wordings kept from training")
    parser.add_argument("--way", choices=("engine", "replay"), default="engine", help="how arms are run")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, help="one JSON line an answer")
    given = parser.parse_args()
    whens: list[When] = [when for when in get_args(When) if when in given.when.split(",")]
    compared = tuple(arms(given.policy.split(","), given.budget.split(","), whens))
    requests = [
        Request(suite, seed, compared, given.questions, given.unseen_wordings)
        for suite in given.suite or ["medium"]
        for seed in range(given.first_seed, given.first_seed + given.clips)
    ]
    results: list[dict[str, Any]] = []
    with given.out.open("w", encoding="utf-8") if given.out else nullcontext() as lines:
        every = graded(requests, model=given.model, device=given.device, way=given.way, workers=given.workers)
        for done, rows in enumerate(every, 1):
            found = [asdict(row) for row in rows]
            results += found
            if lines:
                lines.write("".join(json.dumps(row) + "\n" for row in found))
                lines.flush()
            if done % 10 == 0:
                print(f"{done} of {len(requests)} clips", file=sys.stderr, flush=True)
    from purekv_cli.eval.table import by_suite

    print(by_suite(results))


if __name__ == "__main__":
    main()
