"""Exact match of the demo model on held-out clips that went through real mp4 files.

    python -m purekv_cli.demo.evaluate --suite medium --clips 100

Each clip is rendered, encoded as H.264, decoded again, and asked one question of every type that fits it. Answers are
read off teacher-forced (every answer token and the end must be the model's first choice), which for exact match is the
same as greedy decoding and lets all questions of a clip share one pass over its video.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from purekv_cli.demo import MODEL_DIR
from purekv_cli.demo.batches import IGNORED, prompt_tokens
from purekv_cli.demo.clips import SUITES, Clip, make_clip, read_frames, write_clip
from purekv_cli.demo.language import QUESTION_TYPES
from purekv_cli.demo.network import TrainingModel, to_patches
from purekv_cli.demo.world import MERGED_CELL


@dataclass(frozen=True)
class Answered:
    """One question of one clip, and whether the answer was the true one."""

    seed: int
    type: str
    question: str
    truth: str
    right: bool


def through_mp4(request: tuple[int, str, bool]) -> tuple[Clip, np.ndarray, float]:
    """A held-out clip and what decoding its mp4 file gives: frames and seconds per frame."""
    seed, suite, unseen_wordings = request
    clip = make_clip(seed, suite, unseen_wordings)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(clip, path)
        frames, seconds = read_frames(path)
    return clip, frames, seconds


@torch.no_grad()
def answer_all(model: TrainingModel, clip: Clip, frames: np.ndarray, seconds: float) -> Iterator[Answered]:
    """Every question of the clip."""
    weight = model.model.lm_head.weight
    prompt = prompt_tokens()
    pixels = torch.from_numpy(frames).to(weight.device)
    planes = (pixels[..., 0], pixels[..., 1], pixels[..., 2])
    segments = [prompt.segment([question]) for question in clip.questions]
    lengths = tuple(len(ids) for ids, _ in segments)
    ids = torch.tensor([[token for ids, _ in segments for token in ids]], device=weight.device)
    targets = torch.tensor([token for _, wanted in segments for token in wanted], device=weight.device)
    out = model(
        to_patches(planes, weight.dtype),
        ids,
        torch.tensor([2 * seconds], device=weight.device),
        frames.shape[1] // MERGED_CELL,
        frames.shape[2] // MERGED_CELL,
        lengths,
    )
    fits = (model.logits(out.text)[0].argmax(-1) == targets) | (targets == IGNORED)
    for question, part in zip(clip.questions, fits.split(lengths), strict=True):
        yield Answered(clip.seed, question.type, question.text, question.answer, bool(part.all()))


def load_training_model(folder: Path, device: torch.device) -> TrainingModel:
    """The saved model under the batched forward: bf16 on a GPU, float32 on a CPU."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    return TrainingModel(model.eval()).to(device)


def evaluate(
    model: TrainingModel, suite: str, seeds: Iterable[int], unseen_wordings: bool = False, workers: int = 0
) -> Iterator[Answered]:
    """Ask every question of the clips of these seeds; clips are made in worker processes if there are any."""
    requests = [(seed, suite, unseen_wordings) for seed in seeds]
    if not workers:
        for request in requests:
            yield from answer_all(model, *through_mp4(request))
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        for made in pool.map(through_mp4, requests):
            yield from answer_all(model, *made)


def accuracy(answers: Iterable[Answered]) -> dict[str, float]:
    """Share of right answers per question type."""
    right, asked = Counter[str](), Counter[str]()
    for answered in answers:
        right[answered.type] += answered.right
        asked[answered.type] += 1
    return {name: right[name] / asked[name] for name in QUESTION_TYPES if asked[name]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=[*SUITES, "all"], default="medium")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--unseen-wordings", action="store_true", help="ask in wordings kept from training")
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    parser.add_argument("--workers", type=int, default=0, help="processes that render and encode clips")
    parser.add_argument("--out", type=Path, help="write every answer as JSON lines")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_training_model(given.model, device)
    for suite in SUITES if given.suite == "all" else [given.suite]:
        seeds = range(given.first_seed, given.first_seed + given.clips)
        answers = list(evaluate(model, suite, seeds, given.unseen_wordings, given.workers))
        scores = accuracy(answers)
        mean = sum(scores.values()) / len(scores)
        wording = "wordings kept from training" if given.unseen_wordings else "usual wordings"
        print(f"{suite}: {given.clips} clips, {len(answers)} questions, {wording}: mean {100 * mean:.2f} %")
        print("  " + ", ".join(f"{name} {100 * score:.1f}" for name, score in scores.items()), flush=True)
        if given.out:
            with given.out.open("a") as lines:
                for answered in answers:
                    lines.write(json.dumps({"suite": suite, **vars(answered)}) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
