"""The embedded world's held-out clips as a data set, through the whole path of `purekv ask`.

Every clip is rendered from its seed, written as H.264, probed, sampled at its own frame times and decoded.
"""

import random
import tempfile
from pathlib import Path

from purekv_cli.demo.clips import Clip, make_clip, write_clip
from purekv_cli.demo.language import Question
from purekv_cli.eval.fragments import split_part
from purekv_cli.eval.records import Item
from purekv_cli.models.geometry import ModelGeometry
from purekv_cli.video.decode import decode
from purekv_cli.video.frames import Frames
from purekv_cli.video.probe import probe
from purekv_cli.video.sample import SampleSpec, sample

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


def frames_of(video: str, geometry: ModelGeometry) -> Frames:
    """The frames of an item's video: a clip of this world by its name, or a file (or part of one), sampled as usual."""
    if video.startswith(_NAME):
        _, suite, seed = video.split("/")
        return clip_frames(make_clip(int(seed), suite), geometry)
    path, start, end = split_part(video)
    info = probe(path)
    plan = sample(info, SampleSpec(start=start, end=end))
    return decode(info, plan, geometry.frame_size(info.height, info.width))
