"""Training batches: many clips of one length and size, each with many questions, packed for the block mask.

Every clip contributes one row of text that follows its video: several short segments (one question and answer each) and
long ones (a narration, or a conversation of several turns). A segment sees the video and itself, never its neighbours,
and its positions restart right after the video, so each is exactly what a user's prompt would be.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from purekv_cli.demo import MODEL_DIR
from purekv_cli.demo.clips import FIRST_TRAINING_SEED, draw_spacing
from purekv_cli.demo.language import QUESTION_TYPES, Question, ask
from purekv_cli.demo.staging import stage
from purekv_cli.demo.tokenizer import SYSTEM_MESSAGE, load_tokenizer, special_id
from purekv_cli.demo.world import MERGED_CELL, Scene, make_scene

SHORT, LONG = 40, 88  # tokens of a segment
IGNORED = -100
CONVERSATION = len(QUESTION_TYPES)  # the type index of a segment of several turns
EMPTY = -1
#: how often a type is asked, beside 1: hard ones more often, the trivial ones less
_TYPE_WEIGHTS = {
    "narration": 0.0,
    "unknown": 0.5,
    "after": 3.0,
    "before": 3.0,
    "order": 2.5,
    "when": 2.5,
    "count": 1.8,
    "recolour_who": 1.5,
    "event_count": 1.2,
}

_LOOK_UPS = ("colour_of", "exists", "where", "count", "colour_of", "shape_of")


@dataclass(frozen=True)
class BatchPlan:
    """What a batch looks like; workers turn a plan into a batch."""

    seed: int
    clips: int
    patches: int
    height: int
    width: int
    shorts: int  # short segments per clip
    longs: int  # long segments per clip; the first is a narration
    hardness: float = 1.0
    alike: float = 0.0  # share of clips whose things have one or two colours: shapes must be told apart
    look_ups: float = 0.0  # share of short questions that ask about things, not events

    @property
    def segments(self) -> tuple[int, ...]:
        return (SHORT,) * self.shorts + (LONG,) * self.longs


@dataclass(frozen=True)
class Batch:
    """Arrays for the GPU. B clips of T patches (F = 2T frames), S text tokens per clip."""

    plan: BatchPlan
    slots: np.ndarray  # float32 [B * F, SLOTS, 8]
    camera: np.ndarray  # float32 [B * F, 5]
    ground: np.ndarray  # float32 [B, 8]
    labels: np.ndarray  # int64 [B * T, SLOTS, 2 + STORY]: glyph, colour, and what staging.py calls the story
    seconds_per_patch: np.ndarray  # float32 [B]
    ids: np.ndarray  # int64 [B, S]
    targets: np.ndarray  # int64 [B, S]: the next token where it belongs to an answer, else IGNORED
    types: np.ndarray  # int64 [B, segments]: index into QUESTION_TYPES, CONVERSATION or EMPTY


@dataclass(frozen=True)
class PromptTokens:
    """The pieces of the chat template, as tokens, and the encoder between them."""

    tokenizer: Tokenizer
    before_video: tuple[int, ...]
    after_question: tuple[int, ...]
    before_next_question: tuple[int, ...]
    vision_end: int
    turn_end: int
    video_pad: int
    padding: int

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def segment(self, turns: list[Question]) -> tuple[list[int], list[int]]:
        """Tokens of one or more turns and their targets (next answer token or IGNORED)."""
        ids = [self.vision_end]
        targets: list[int] = []
        for i, turn in enumerate(turns):
            if i:
                ids += self.before_next_question
            ids += [*self.encode(turn.text), *self.after_question]
            answer = [*self.encode(turn.answer), self.turn_end]
            targets += [IGNORED] * (len(ids) - 1 - len(targets)) + answer
            ids += answer
        return ids, [*targets, IGNORED]


@functools.cache
def prompt_tokens() -> PromptTokens:
    tokenizer = load_tokenizer(MODEL_DIR)

    def encode(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False).ids)

    return PromptTokens(
        tokenizer,
        before_video=encode(f"<|im_start|>system\n{SYSTEM_MESSAGE}<|im_end|>\n<|im_start|>user\n<|vision_start|>"),
        after_question=encode("<|im_end|>\n<|im_start|>assistant\n"),
        before_next_question=encode("\n<|im_start|>user\n"),
        vision_end=special_id(tokenizer, "<|vision_end|>"),
        turn_end=special_id(tokenizer, "<|im_end|>"),
        video_pad=special_id(tokenizer, "<|video_pad|>"),
        padding=special_id(tokenizer, "<|endoftext|>"),
    )


def pick_question(scene: Scene, rng: random.Random, look_ups: float = 0.0) -> Question:
    """A question of a random type that fits the scene."""
    weights = [_TYPE_WEIGHTS.get(question_type, 1.0) for question_type in QUESTION_TYPES]
    while True:
        kind = rng.choice(_LOOK_UPS) if rng.random() < look_ups else rng.choices(QUESTION_TYPES, weights)[0]
        question = ask(kind, scene, rng, rough=True)
        if question is not None:
            return question


def make_batch(plan: BatchPlan) -> Batch:
    """Draw the clips of a plan and everything that is asked about them; a pure function of the plan."""
    rng = random.Random(f"batch {plan.seed}")
    prompt = prompt_tokens()
    length = sum(plan.segments)
    ids = np.full((plan.clips, length), prompt.padding, np.int64)
    targets = np.full((plan.clips, length), IGNORED, np.int64)
    types = np.full((plan.clips, len(plan.segments)), EMPTY, np.int64)
    stagings, seconds = [], []
    for row in range(plan.clips):
        scene = make_scene(
            FIRST_TRAINING_SEED + plan.seed * 1024 + row,
            plan.patches, plan.height, plan.width, draw_spacing(rng), plan.hardness, rng.random() < plan.alike,
        )  # fmt: skip
        stagings.append(stage(scene))
        seconds.append(scene.seconds_per_patch)
        start = 0
        for column, room in enumerate(plan.segments):
            kind, (tokens, wanted) = _fill(scene, rng, prompt, room, column == plan.shorts, plan.look_ups)
            types[row, column] = kind
            ids[row, start : start + len(tokens)] = tokens
            targets[row, start : start + len(tokens)] = wanted
            start += room
    labels = [np.concatenate([np.stack([s.glyph_labels, s.colour_labels], -1), s.story_labels], -1) for s in stagings]
    return Batch(
        plan,
        np.concatenate([s.slots for s in stagings]),
        np.concatenate([s.camera for s in stagings]),
        np.stack([s.ground for s in stagings]),
        np.concatenate(labels),
        np.array(seconds, np.float32),
        ids,
        targets,
        types,
    )


def _fill(
    scene: Scene, rng: random.Random, prompt: PromptTokens, room: int, narration: bool, look_ups: float
) -> tuple[int, tuple[list[int], list[int]]]:
    """A segment that fits its room: one question, or for a long one a narration or a conversation."""
    while True:
        turns = [pick_question(scene, rng, look_ups)]
        if room == LONG:
            told = ask("narration", scene, rng, rough=True)
            assert told is not None
            if narration and rng.random() < 0.75:
                turns = [told]
            else:
                turns = [told if rng.random() < 0.25 else pick_question(scene, rng) for _ in range(rng.randint(2, 4))]
        while turns:
            segment = prompt.segment(turns)
            if len(segment[0]) <= room:
                kind = QUESTION_TYPES.index(turns[0].type) if len(turns) == 1 else CONVERSATION
                return kind, segment
            turns.pop()


def cells(plan: BatchPlan) -> tuple[int, int]:
    """Visual tokens per temporal patch, rows and columns."""
    return plan.height // MERGED_CELL, plan.width // MERGED_CELL
