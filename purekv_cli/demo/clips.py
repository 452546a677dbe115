"""Demo clips: a seed becomes frames, questions with true answers, and a real mp4 file.

Seeds in :data:`HELD_OUT_SEEDS` are never trained on; training draws its scenes from seeds at and above
:data:`FIRST_TRAINING_SEED`. Four suites differ in length alone; frame spacing (0.25 to 4 s per temporal patch of two
frames) and, in three clips of ten, the resolution are drawn from the seed. The outdoors suites show the same scenes
before another ground, under a moving camera; they are for tests only.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from purekv_cli.demo.language import QUESTION_TYPES, Question, ask
from purekv_cli.demo.suites import SUITES
from purekv_cli.demo.world import FRAME_SIDES, Scene, make_scene

#: the suite whose scenes and questions an outdoors suite shares, seed by seed; its ground and camera are outdoors.py's
INDOORS = {"outdoors-short": "short", "outdoors": "medium", "outdoors-long": "long"}
HELD_OUT_SEEDS = range(0, 1_000_000)
FIRST_TRAINING_SEED = 1_000_000_000


@dataclass(frozen=True)
class Clip:
    """A rendered clip that knows its answers."""

    seed: int
    suite: str
    scene: Scene
    questions: tuple[Question, ...]

    @property
    def seconds_per_frame(self) -> float:
        return self.scene.milliseconds_per_frame / 1000

    def frames(self) -> np.ndarray:
        """The frames, drawn anew at every call: uint8 [2 * patches, H, W, 3]."""
        from purekv_cli.demo.render import render_frames
        from purekv_cli.demo.staging import stage

        staging, behind = stage(self.scene), None
        if self.suite in INDOORS:
            from purekv_cli.demo.outdoors import backdrop

            behind = backdrop(self.scene, staging)
        return render_frames(staging, self.scene.height, self.scene.width, behind).numpy()


def draw_spacing(rng: random.Random) -> int:
    """Milliseconds per frame, log-uniform over 125 to 2000 in steps of 25: 0.25 to 4 s per temporal patch."""
    return 25 * round(math.exp(rng.uniform(math.log(125), math.log(2000))) / 25)


def draw_size(rng: random.Random, share_of_others: float = 0.3) -> tuple[int, int]:
    """Height and width: 224 x 224, or any pair of FRAME_SIDES."""
    if rng.random() >= share_of_others:
        return 224, 224
    return rng.choice(FRAME_SIDES), rng.choice(FRAME_SIDES)


def make_clip(seed: int, suite: str = "medium", unseen_wordings: bool = False) -> Clip:
    """The clip of a seed, with one question of every type that fits it.

    suite: short, medium, long or verylong (16, 32, 64, 128 temporal patches), outdoors-short, outdoors or
        outdoors-long (16, 32, 64).
    unseen_wordings: ask in wordings that the demo model was not trained on.
    Raises KeyError for an unknown suite.
    """
    rng = random.Random(f"clip {seed} {INDOORS.get(suite, suite)}")
    height, width = draw_size(rng)
    scene = make_scene(seed, SUITES[suite], height, width, draw_spacing(rng))
    return Clip(seed, suite, scene, ask_all(scene, rng, unseen_wordings))


def ask_all(scene: Scene, rng: random.Random, unseen_wordings: bool = False) -> tuple[Question, ...]:
    """One question of every type that fits the scene."""
    asked = (ask(question_type, scene, rng, unseen_wordings) for question_type in QUESTION_TYPES)
    return tuple(question for question in asked if question is not None)


def write_clip(clip: Clip, path: str | Path) -> None:
    """Write the clip as H.264 mp4 with exact time stamps; reading every frame gives the clip's frames back."""
    write_frames(clip.frames(), clip.scene.milliseconds_per_frame, path)


def write_frames(frames: np.ndarray, milliseconds_per_frame: int, path: str | Path, crf: int = 20) -> None:
    """Encode uint8 [N, H, W, 3] at a constant spacing: yuv420p, no B-frames, a key frame every eight frames."""
    import av

    with av.open(str(path), "w", format="mp4") as container:
        options = {"crf": str(crf), "preset": "veryfast"}
        stream = container.add_stream("libx264", rate=Fraction(1000, milliseconds_per_frame), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.gop_size = 8
        stream.codec_context.max_b_frames = 0
        stream.codec_context.thread_count = 1
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts = i * milliseconds_per_frame
            frame.time_base = Fraction(1, 1000)
            container.mux(_timed(stream.encode(frame), milliseconds_per_frame))
        container.mux(_timed(stream.encode(), milliseconds_per_frame))


def _timed(packets: list, duration: int) -> list:  # type: ignore[type-arg]
    for packet in packets:
        packet.duration = duration
    return packets


def read_frames(path: str | Path) -> tuple[np.ndarray, float]:
    """Every frame of a clip file, uint8 [N, H, W, 3], and the seconds from one frame to the next."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        decoded = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
    seconds = (decoded[-1][0] - decoded[0][0]) / max(1, len(decoded) - 1)
    return np.stack([pixels for _, pixels in decoded]), seconds
