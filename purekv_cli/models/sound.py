"""A clip and its sound as Qwen2.5-Omni reads them together: one block, picture and sound by turns of two seconds.

    sound -> mel features (100 a second) -> audio encoder -> 25 tokens a second
    vision_bos audio_bos | video of 0-2 s | sound of 0-2 s | video of 2-4 s | ... | audio_eos vision_eos

Positions are those of `get_rope_index` with use_audio_in_video: both count from the start of the block, a token of
sound one on in all three axes, a video token as ever; the two marks that open the block share a position, and so do
the two that close it. What follows the block continues at its largest position plus one, as everywhere. (The library
continues after the last turn of sound, which may be less where that ends before the picture.)
"""

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import WhisperFeatureExtractor

from purekv_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class Mel:
    """What the audio encoder reads."""

    features: Tensor  # float32 [1, bins, n]
    mask: Tensor  # int [1, n], 0 where padded

    @property
    def tokens(self) -> int:
        """Tokens of sound that the encoder makes of it, which halves twice."""
        return max(0, ((int(self.mask.sum()) - 1) // 2 - 1) // 2 + 1)


def mel_of(extractor: WhisperFeatureExtractor, samples: NDArray[np.float32], rate: int) -> Mel:
    """Mel features of sound [n]; what lies beyond the extractor's bound is not heard.

    The released processor pads to the bound, 300 s; here only as far as a window of the spectrum reaches.
    """
    if rate != extractor.sampling_rate:
        raise UsageError(f"sound of {rate} samples a second", f"Decode it at {extractor.sampling_rate}.")
    hop: int = extractor.hop_length
    padded = -(-(len(samples) + 2 * extractor.n_fft) // hop) * hop
    found: Any = extractor(
        samples,
        sampling_rate=rate,
        padding="max_length",
        max_length=min(extractor.n_samples, padded),
        return_attention_mask=True,
        return_tensors="pt",
    )
    return Mel(found["input_features"], found["attention_mask"])


def by_turns(video: Tensor, sounds: int, length: int) -> list[tuple[bool, int]]:
    """Runs of tokens as the prompt has them: whether of sound, and how many.

    Args:
        video: int64 [V] ascending, times of the video's tokens, in positions.
        sounds: tokens of sound, one position each.
        length: of a turn, in positions.
    """
    counts = [_counts(times.tolist(), length) for times in (video, torch.arange(sounds))]
    pairs = [(heard, count) for turn in zip_longest(*counts, fillvalue=0) for heard, count in enumerate(turn)]
    return [(bool(heard), count) for heard, count in pairs if count]


def _counts(times: list[int], length: int) -> list[int]:
    """How many tokens each turn holds. Every token begins at most one: where steps are further apart than a turn is
    long, the first tokens of a step are turns of their own, as in the library."""
    counts = [0]
    for time in times:
        if time >= len(counts) * length:
            counts.append(0)
        counts[-1] += 1
    return counts


def block_positions(length: int, video: Tensor, audio: Tensor, grid: tuple[int, int, int], times: Tensor) -> Tensor:
    """Rotary positions of a prompt with one block of video and sound: int64 [4, 1, N], the text row first.

    Args:
        length: tokens of the prompt, N.
        video, audio: int64, ascending places of their tokens.
        grid: (T, H, W) video tokens.
        times: int64 [T], of its steps, in positions from the start of the block.
    """
    first, stop = int(video[0]), max(int(video[-1]), int(audio[-1])) + 1
    at = torch.arange(length).repeat(4, 1)
    start = first - 1  # one less than tokens: the two marks before it share a position
    cell = torch.arange(len(video))
    height, width = grid[1:]
    at[1:, start] = start - 1
    at[1:, video] = start + torch.stack([times[cell // (height * width)], cell // width % height, cell % width])
    at[1:, audio] = start + torch.arange(len(audio))
    end = int(at[1:, first:stop].amax()) + 1
    at[1:, stop:] = end + (torch.arange(length - stop) - 1).clamp(min=0)
    return at[:, None]
