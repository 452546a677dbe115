"""Small prompts for tests of the method."""

import torch

from purekv_cli.method.layout import PromptMasks, VideoLayout
from purekv_cli.method.policies.base import Observation, Rotary


def prompt(
    grid: tuple[int, int, int], before: int = 3, after: int = 4, between: int = 0, inside: int = 0
) -> VideoLayout:
    """Text, video, text; optionally `between` text tokens before every later frame and `inside` after every row."""
    frames, height, width = grid
    video, position = [], before
    for frame in range(frames):
        position += between if frame else 0
        for _ in range(height):
            video += range(position, position + width)
            position += width + inside
    length = (video[-1] + 1 if video else before) + after
    return VideoLayout(length, torch.tensor(video, dtype=torch.int64), grid)


def observation(
    masks: PromptMasks, index: int = 0, layers: int = 4, heads: int = 4, kv_heads: int = 2, seed: int = 0
) -> Observation:
    """What a random layer shows."""
    generator = torch.Generator().manual_seed(100 * seed + index)
    batch, length = masks.valid.shape
    query = torch.randn(batch, heads, length, 8, generator=generator) * 2
    key, value = (torch.randn(batch, kv_heads, length, 8, generator=generator) for _ in range(2))
    out = torch.randn(24, heads * 8, generator=generator)
    return Observation(index, layers, query, key, value, None, 0.35, masks, out, rotary(batch, length))


def rotary(batch: int, length: int, dim: int = 8) -> Rotary:
    """Angles of text that counts its positions from 0, padding included; what follows counts on from `length`."""

    def angles(start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        turns = torch.arange(start, start + count)[:, None] * 0.3 ** torch.arange(dim // 2)
        both = torch.cat([turns, turns], -1).expand(batch, -1, -1)
        return both.cos(), both.sin()

    return Rotary(*angles(0, length), lambda count: angles(length, count))
