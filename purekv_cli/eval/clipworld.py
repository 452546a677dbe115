"""Accuracy on the embedded world's held-out clips, from mp4 files, through the whole path of `purekv ask`.

    python -m purekv_cli.eval.clipworld --suite medium --clips 200 --budget 0.2 --out results.jsonl

Every clip is rendered from its seed, written as H.264, probed, sampled at its own frame times, decoded, and asked
questions of different types; answers are generated greedily and compared by exact match up to case and punctuation. One
JSON line an answer goes to --out, the table to stdout.
"""

import argparse
import json
import multiprocessing
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from purekv_cli.demo.clips import SUITES, Clip, make_clip, write_clip
from purekv_cli.demo.language import Question, matches
from purekv_cli.eval.arms import Arm, arms
from purekv_cli.eval.table import by_suite
from purekv_cli.models.base import Adapter
from purekv_cli.runtime.engine import Engine
from purekv_cli.runtime.events import Answer
from purekv_cli.runtime.sampling import Generation
from purekv_cli.video.decode import decode
from purekv_cli.video.frames import Frames
from purekv_cli.video.probe import probe
from purekv_cli.video.sample import SampleSpec, sample

_LONGEST_ANSWER = 96  # tokens; the world's longest narration has fewer


@dataclass(frozen=True, slots=True)
class Graded:
    """One answer and whether it is right."""

    suite: str
    seed: int
    type: str
    question: str
    truth: str
    answer: str
    right: bool
    policy: str
    budget: str
    when: str
    kv_bytes_full: int
    kv_bytes_kept: int


def chosen_questions(clip: Clip, count: int | None) -> list[Question]:
    """The narration, and others drawn by the clip's seed; all of them if `count` is None."""
    questions = list(clip.questions)
    if count is None or len(questions) <= count:
        return questions
    narration = [q for q in questions if q.type == "narration"]
    others = [q for q in questions if q.type != "narration"]
    return narration + random.Random(f"questions {clip.seed}").sample(others, count - len(narration))


def frames_of(clip: Clip, adapter: Adapter) -> Frames:
    """The clip's own frames, as its mp4 file gives them back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(clip, path)
        info = probe(path)
        plan = sample(info, SampleSpec(fps=1 / clip.seconds_per_frame, max_frames=info.frame_count))
        return decode(info, plan, adapter.geometry.frame_size(info.height, info.width), threads=1)


def grade(adapter: Adapter, clip: Clip, compared: Sequence[Arm], count: int | None = None) -> Iterator[Graded]:
    """Ask the clip's questions in every arm."""
    frames = frames_of(clip, adapter)
    questions = chosen_questions(clip, count)
    inputs = adapter.prepare(frames, questions[0].text)
    embeds, longest = None, Generation(max_tokens=_LONGEST_ANSWER)
    for arm in compared:
        session = Engine(adapter, arm.config).open(inputs)
        session.embeds = embeds  # the vision tower sees a clip once, whatever is compared
        for question in questions:
            *_, answer = session.ask(question.text, longest, shared=arm.when == "unknown")
            assert isinstance(answer, Answer)
            yield Graded(
                suite=clip.suite,
                seed=clip.seed,
                type=question.type,
                question=question.text,
                truth=question.answer,
                answer=answer.text,
                right=matches(answer.text, question.answer),
                policy=arm.policy,
                budget=arm.budget,
                when=arm.when,
                kv_bytes_full=answer.stats.kv_bytes_full,
                kv_bytes_kept=answer.stats.kv_bytes_kept,
            )
        embeds = session.embeds


_adapter: Adapter | None = None  # of a worker process


def _start_worker(model: str, device: str) -> None:
    global _adapter
    import torch

    from purekv_cli.models.registry import load, resolve

    torch.set_num_threads(1)
    _adapter = load(resolve(model, offline=True), device=device)


def _work(task: tuple[int, str, bool, list[Arm], int | None]) -> list[dict[str, Any]]:
    seed, suite, unseen_wordings, compared, count = task
    assert _adapter is not None
    return [asdict(graded) for graded in grade(_adapter, make_clip(seed, suite, unseen_wordings), compared, count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", action="append", choices=list(SUITES), help="repeatable (default: medium)")
    parser.add_argument("--clips", type=int, default=200, help="per suite")
    parser.add_argument("--first-seed", type=int, default=0, help="seeds of held-out clips count from here")
    parser.add_argument("--questions", type=int, help="per clip, the narration among them (default: all)")
    parser.add_argument("--policy", default="purekv,purekv-paper,random", help="besides dense")
    parser.add_argument("--budget", default="0.2", help="comma-separated")
    parser.add_argument("--unseen-wordings", action="store_true", help="ask in wordings kept from training")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, help="one JSON line an answer")
    given = parser.parse_args()
    compared = list(arms(given.policy.split(","), given.budget.split(","), ("unknown", "prompt")))
    suites = given.suite or ["medium"]
    tasks = [
        (seed, suite, given.unseen_wordings, compared, given.questions)
        for suite in suites
        for seed in range(given.first_seed, given.first_seed + given.clips)
    ]
    context = multiprocessing.get_context("spawn")
    results: list[dict[str, Any]] = []
    with (
        given.out.open("w", encoding="utf-8") if given.out else nullcontext() as lines,
        ProcessPoolExecutor(
            given.workers, mp_context=context, initializer=_start_worker, initargs=(given.model, given.device)
        ) as pool,
    ):
        for done, graded in enumerate(pool.map(_work, tasks), 1):
            results += graded
            if lines:
                lines.write("".join(json.dumps(row) + "\n" for row in graded))
                lines.flush()
            if done % 10 == 0:
                print(f"{done} of {len(tasks)} clips", file=sys.stderr, flush=True)
    print(by_suite(results))


if __name__ == "__main__":
    main()
