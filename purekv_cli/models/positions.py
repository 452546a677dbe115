"""Rotary positions of Qwen2.5-VL prompts (mrope): time, height, width of vision tokens, one running number for text.

The rule is `get_rope_index` of transformers 4.49 to 4.57.1: vision tokens count from the position after the text before
them, text after a vision block continues at the largest position so far plus one, and the temporal index of grid step t
is int(t * seconds_per_grid * tokens_per_second). Later releases break it twice (text after a video starts too early;
seconds are truncated to integers), so positions are always computed here and handed to the model.

One cumulative sum does it for a whole batch: a text token advances the position by one, the first token of a vision
block by the block's extent (its largest offset plus one), its other tokens and padding by nothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_PADDED = 1  # what the reference writes at masked places


@dataclass(frozen=True, slots=True)
class VisionTokens:
    """How a checkpoint marks vision tokens and how it counts them."""

    image: int  # token id
    video: int
    merge: int  # patches merged per side
    tokens_per_second: float  # temporal positions of one second


def mrope_positions(
    input_ids: Tensor,
    tokens: VisionTokens,
    *,
    attention_mask: Tensor | None = None,
    image_grids: Tensor | None = None,
    video_grids: Tensor | None = None,
    seconds_per_grid: Tensor | None = None,
    step_seconds: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Positions of every token of a batch.

    Args:
        input_ids: int64 [B, N].
        attention_mask: [B, N], 0 where padded (on either side).
        image_grids, video_grids: int64 [blocks, 3], T, rows and columns in patches before merging, in the order in
            which the blocks appear in the flattened batch.
        seconds_per_grid: float [video blocks], seconds between grid steps; one second where it is None.
        step_seconds: float [steps of all video blocks], seconds from a block's first grid step to each, in its place
            where they are uneven.

    Returns:
        int64 [4, B, N], rows text, t, h, w, and the position of the next token of every row, int64 [B].
    """
    device = input_ids.device
    valid = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    offsets = torch.zeros(3, input_ids.numel(), dtype=torch.int64, device=device)
    first = torch.arange(input_ids.numel(), device=device)  # of a vision token: its block's first token
    advance = valid.flatten().long()
    for token, grids, seconds in (
        (tokens.image, image_grids, torch.zeros(1)),
        (tokens.video, video_grids, torch.ones(1) if seconds_per_grid is None else seconds_per_grid),
    ):
        where = ((input_ids == token) & valid).flatten().nonzero().squeeze(1)
        grids = torch.zeros(0, 3, dtype=torch.int64) if grids is None else grids
        blocks = grids.to(device) // torch.tensor([1, tokens.merge, tokens.merge], device=device)
        sizes = blocks.prod(1)
        if int(sizes.sum()) != len(where):
            raise ValueError(f"{len(where)} tokens {token} in the prompt, but the grids hold {int(sizes.sum())}")
        if not len(where):
            continue
        pace = seconds.to(device, torch.float32).expand(len(blocks)).repeat_interleave(sizes)
        heads = sizes.cumsum(0) - sizes
        index = torch.arange(len(where), device=device) - heads.repeat_interleave(sizes)
        height, width = blocks[:, 1].repeat_interleave(sizes), blocks[:, 2].repeat_interleave(sizes)
        step = index // (height * width)
        elapsed = step * pace
        if step_seconds is not None and token == tokens.video:
            before = (blocks[:, 0].cumsum(0) - blocks[:, 0]).repeat_interleave(sizes)  # steps of earlier blocks
            elapsed = step_seconds.to(device)[before + step]
        inside = torch.stack([(elapsed * tokens.tokens_per_second).long(), index // width % height, index % width])
        offsets[:, where] = inside
        first[where] = where[heads].repeat_interleave(sizes)
        advance[where] = 0
        lasts = inside[:, heads + sizes - 1]  # the last token of a block has the largest offset in every axis
        advance[where[heads]] = lasts.amax(0) + 1
    steps = advance.view_as(input_ids)
    starts = (steps.cumsum(1) - steps).flatten()
    rotary = (starts[first] + offsets).view(3, *input_ids.shape)
    text = valid.long().cumsum(1) - 1
    positions = torch.cat([text[None], rotary]).masked_fill(~valid, _PADDED)
    return positions, steps.sum(1)
