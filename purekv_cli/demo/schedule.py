"""What the demo model is trained on, and when: lengths, sizes, difficulty and questions over the course of training.

Every step sees the same number of visual tokens, as many short or as few long clips; half as many in the first half of
the schedule, when more steps are worth more than quieter ones. Lengths grow over the first two fifths (a short clip
teaches to see, a long one to remember), other resolutions join after an eighth, and the world's disturbances grow over
it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from purekv_cli.demo.batches import BatchPlan
from purekv_cli.demo.world import MERGED_CELL


@dataclass(frozen=True)
class Stage:
    """A stretch of the schedule, up to the share `until` of it."""

    until: float
    lengths: dict[int, float]  # probability of each clip length in temporal patches
    look_ups: float = 0.0  # extra share of questions about things
    alike: float = 0.0  # share of clips whose things differ in shape alone
    hardness: tuple[float, float] = (1.0, 1.0)  # of the world, at the stage's beginning and end
    other_sizes: float = 0.25  # share of batches that are not 224 x 224
    batch: float = 1.0  # share of the visual tokens of a full batch: many small steps first, few noisy ones later


#: Look-ups among things of one colour, early and on short clips: or else training gets by on colours and shape words
#: come to mean little.
FROM_SCRATCH = (
    Stage(0.04, {4: 1.0}, 0.4, 0.4, (0.3, 0.6), 0.0, batch=0.5),
    Stage(0.12, {4: 0.25, 8: 0.75}, 0.3, 0.4, (0.6, 1.0), 0.0, batch=0.5),
    Stage(0.24, {8: 0.4, 16: 0.6}, 0.2, 0.3, batch=0.5),
    Stage(0.40, {8: 0.15, 16: 0.4, 32: 0.45}, 0.1, 0.3, batch=0.5),
    Stage(0.50, {8: 0.08, 16: 0.24, 32: 0.40, 64: 0.28}, 0.1, 0.2, batch=0.5),
    Stage(1.01, {8: 0.05, 16: 0.18, 32: 0.38, 64: 0.35, 128: 0.04}, 0.05, 0.15),
)
SHORT_SEGMENTS = {4: 4, 8: 5, 16: 8, 32: 14, 64: 22, 128: 28}
#: lengths vary by these eighths, sizes among these pairs: few enough shapes that attention plans are made only once
LENGTH_EIGHTHS = (6, 7, 8, 8, 9, 10)
OTHER_SIZES = ((168, 168), (168, 252), (196, 280), (196, 196), (252, 168), (252, 252), (280, 196), (280, 280))


def stage_at(progress: float, stages: tuple[Stage, ...]) -> int:
    """Index of the stage that this share of the schedule falls into."""
    return next((i for i, stage in enumerate(stages) if progress < stage.until), len(stages) - 1)


def draw_plan(seed: int, progress: float, visual_tokens: int, stages: tuple[Stage, ...]) -> BatchPlan:
    """What to train on at this point of the schedule."""
    rng = random.Random(f"plan {seed}")
    at = stage_at(progress, stages)
    stage, begun = stages[at], stages[at - 1].until if at else 0.0
    nominal = rng.choices(list(stage.lengths), list(stage.lengths.values()))[0]
    height, width = 224, 224
    patches = nominal * rng.choice(LENGTH_EIGHTHS) // 8
    if rng.random() < stage.other_sizes:
        height, width = rng.choice(OTHER_SIZES)
        patches = nominal
    clips = max(1, int(stage.batch * visual_tokens) * MERGED_CELL**2 // (patches * height * width))
    longs = 1 if nominal <= 8 else 2
    easy, hard = stage.hardness
    hardness = easy + (hard - easy) * (progress - begun) / (stage.until - begun)
    return BatchPlan(
        seed, clips, patches, height, width, SHORT_SEGMENTS[nominal], longs, hardness, stage.alike, stage.look_ups
    )


def validation_plans(patches: int, visual_tokens: int, batch_count: int = 2) -> list[BatchPlan]:
    """Scenes from seeds below the training seeds; one batch at 224 x 224, one in another size."""
    plans = []
    for k in range(batch_count):
        height, width = ((224, 224), (196, 252))[k % 2]
        clips = max(1, visual_tokens * MERGED_CELL**2 // (patches * height * width))
        plans.append(BatchPlan(-1 - k - 10 * patches, clips, patches, height, width, 12, 1))
    return plans
