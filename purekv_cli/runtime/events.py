"""What the engine tells while it works, and what it hands over at the end."""

from dataclasses import dataclass, field
from typing import Literal

Stage = Literal["MiB", "scenes", "decode", "load", "vision", "prefill", "answer"]


@dataclass(frozen=True, slots=True)
class Progress:
    """A stage moved on: `done` of `total` steps (frames, layers, tokens); a total of 0 is not known."""

    stage: Stage
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Text:
    """The next piece of the answer."""

    piece: str


@dataclass(frozen=True, slots=True)
class RunStats:
    """What one answer cost. Bytes are counted from the tensors that exist; times are wall clock."""

    prompt_tokens: int
    video_tokens: int
    kept_tokens: float  # mean over layers and KV heads
    kv_bytes_full: int  # K and V of the whole prompt, as the dense cache holds them
    kv_bytes_kept: int  # the compact cache's own tensors right after prefill
    kv_bytes_peak: int  # the most K and V bytes alive at once during prefill
    decode_seconds: float  # video decoding
    vision_seconds: float  # preprocessing and vision tower
    prefill_seconds: float  # language model, scoring included
    scoring_seconds: float  # the part of it that chose what stays
    first_token_seconds: float  # from the start of vision to the first token
    tokens_per_second: float  # decoding after the first token; 0 when there was none
    new_tokens: int
    sparse: bool = False  # whether ST-SpAttn ran
    propagated: bool = False  # whether only some tokens flowed through the upper layers
    prefill_path: str = ""  # which way the prompt went, and why; empty when it had been read before
    decode_path: str = ""  # the same for the answer's tokens
    recall_seconds: float = 0.0  # reading what an earlier run kept of the clip; 0: it was watched, or is still there


@dataclass(frozen=True, slots=True)
class Answer:
    """One question answered."""

    question: str
    text: str
    finish: Literal["stop", "length", "interrupted"]
    stats: RunStats
    token_ids: tuple[int, ...] = field(default=())


Event = Progress | Text | Answer
