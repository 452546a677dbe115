"""What is known of a batch of prompts before the model runs: where the video lies, and the positions to decode at."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import PromptMasks, VideoLayout


@dataclass(slots=True)
class Prompt:
    """B prompts of N positions, padded on the left; kept beside a cache for as long as it lives."""

    masks: PromptMasks
    delta: Tensor | None = None  # int64 [B, 1]: rotary position minus token count, for text after the prompt; None: 0
    layout: VideoLayout | None = None  # only for one prompt: ST-SpAttn needs its grid
    reserve: int = 0  # entries of the budget that tokens fed after this prefill will take
    deepstack: tuple[Tensor, ...] = ()  # [V, hidden] each, added to the video tokens above the first layers (Qwen3-VL)

    @classmethod
    def of_ids(
        cls,
        ids: Tensor,
        video_token: int | None,
        attention_mask: Tensor | None = None,
        grids: Sequence[tuple[int, int, int]] = (),
        audio_token: int | None = None,
    ) -> "Prompt":
        """Find the video and its sound by their tokens.

        Args:
            ids: int64 [B, N].
            video_token: the placeholder's id; None: the model has no video.
            attention_mask: [B, N], 0 where padded.
            grids: (T, H, W) of every video after merging.
            audio_token: as `video_token`.
        """
        valid = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        video, audio = (
            (ids == token) & valid if token is not None else torch.zeros_like(valid)
            for token in (video_token, audio_token)
        )
        column = torch.arange(ids.shape[1], device=ids.device)
        last = torch.where(video | audio, column, -1).amax(-1, keepdim=True)
        layout = None
        if ids.shape[0] == 1 and grids and bool(valid.all()):
            places = video[0].nonzero().flatten().cpu()
            if len(places) == sum(t * h * w for t, h, w in grids):
                heard = audio[0].nonzero().flatten().cpu()
                layout = VideoLayout(ids.shape[1], places, grids[0], heard, tuple(grids[1:]))
                return cls(PromptMasks.of([layout], ids.device), layout=layout)
        return cls(PromptMasks(video | audio, (column > last) & valid, valid), layout=layout)

    @classmethod
    def of_layouts(cls, layouts: Sequence[VideoLayout], device: torch.device | str = "cpu") -> "Prompt":
        """The same from layouts that the caller knows."""
        return cls(PromptMasks.of(layouts, device), layout=layouts[0] if len(layouts) == 1 else None)

    @property
    def length(self) -> int:
        return self.masks.video.shape[1]

    @property
    def batch(self) -> int:
        return self.masks.video.shape[0]

    def observe(self, rows: int) -> None:
        """Let only the last `rows` tokens speak for the question: what stands before it chooses nothing."""
        last = torch.arange(self.length, device=self.masks.after.device) >= self.length - rows
        self.masks = replace(self.masks, after=self.masks.after & last)

    def to(self, device: torch.device) -> "Prompt":
        return replace(
            self,
            masks=self.masks.map(lambda each: each.to(device)),
            delta=None if self.delta is None else self.delta.to(device),
        )

    def reorder(self, rows: Tensor) -> None:
        """Follow the cache to other rows (beams, repeats)."""
        self.masks = self._rows(rows)
        if self.delta is not None:
            self.delta = self.delta.index_select(0, rows.to(self.delta.device))

    def expand(self, batch: int) -> None:
        """Every prompt repeated: what `generate` does for beams and several samples before it prefills."""
        if batch != self.batch:
            self.reorder(torch.arange(self.batch).repeat_interleave(batch // self.batch))

    def _rows(self, rows: Tensor) -> PromptMasks:
        rows = rows.to(self.masks.video.device)
        return self.masks.map(lambda each: each.index_select(0, rows))

    def entries(self, config: MethodConfig, bytes_per_token: int) -> list[int]:
        """Entries to keep of every prompt, per layer and KV head.

        Raises:
            UsageError: the budget does not even hold the text.
        """
        kept = []
        for length, text in zip(self.masks.valid.sum(-1).tolist(), self.masks.protected.sum(-1).tolist(), strict=True):
            if config.policy == "dense" or text == length:
                kept.append(length)
                continue
            whole = config.budget.entries(length + self.reserve, text + self.reserve, bytes_per_token)
            kept.append(whole - self.reserve)
        return kept


def cut(masks: PromptMasks, start: int, stop: int) -> PromptMasks:
    """Columns [start, stop) of the masks."""
    return masks.map(lambda each: each[:, start:stop])
