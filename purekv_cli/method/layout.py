"""Where the video lies in a prompt: the only thing the method needs to know of a model family.

Several videos are spans one after the other, each with a grid of its own. Sparse attention leaves such a prompt alone;
to policies all their tokens are alike, and their frames one sequence.

Sound is a second span of tokens that may be pruned. It has no grid: sparse attention reads it, and lets it read, as
text; a policy that asks for a token's frame and place gets the frame of the same share of the clip, and one place for
all sound.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

NOTHING = torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True, slots=True)
class VideoLayout:
    """One prompt: text before the video, T x H x W video tokens, text after it; or several videos, text between them.

    Video tokens need not be one run (some families put time stamps between frames); `video` lists them in
    frame-major order (t, h, w). A prompt without video has an empty list.
    """

    length: int  # prompt tokens N
    video: Tensor  # int64 [V], ascending positions of the video tokens
    grid: tuple[int, int, int]  # (T, H, W) after spatial merging, T * H * W = V (less the tokens of `more`)
    audio: Tensor = field(default_factory=lambda: NOTHING)  # int64 [A], ascending positions of tokens of sound
    more: tuple[tuple[int, int, int], ...] = ()  # of further videos, in their order in `video`

    @property
    def grids(self) -> tuple[tuple[int, int, int], ...]:
        """Of all videos."""
        return (self.grid, *self.more)

    @property
    def before(self) -> int:
        """Number of tokens before the first video token (the sinks among them)."""
        return int(self.video[0]) if len(self.video) else self.length

    @property
    def after(self) -> int:
        """Position of the first token after the last one of video and sound: where the question begins."""
        return max((int(span[-1]) + 1 for span in (self.video, self.audio) if len(span)), default=0)

    def frames_and_spots(self) -> tuple[Tensor, Tensor]:
        """int64 [V] each: the number of every video token's frame, through all videos, and its place in that frame."""
        frames, spots, first = [], [], 0
        for steps, rows, columns in self.grids:
            number, size = torch.arange(steps * rows * columns), max(1, rows * columns)
            frames.append(first + number // size)
            spots.append(number % size)
            first += steps
        return torch.cat(frames), torch.cat(spots)

    @property
    def prunable(self) -> Tensor:
        """int64 [V + A], the video's positions, then the sound's."""
        return torch.cat([self.video, self.audio]) if len(self.audio) else self.video


@dataclass(frozen=True, slots=True)
class PromptMasks:
    """The same for a left-padded batch, as masks over B prompts of N positions."""

    video: Tensor  # bool [B, N], tokens that may be pruned, the sound's among them
    after: Tensor  # bool [B, N], text after the video
    valid: Tensor  # bool [B, N], False where a row is padded
    frame: Tensor | None = None  # int64 [B, N], number of a video token's frame; None: the grids are not known
    spot: Tensor | None = None  # int64 [B, N], its place within the frame
    preamble: Tensor = None  # type: ignore[assignment]  # bool [B, N], text before the video but for the first token

    def __post_init__(self) -> None:
        """Of a whole prompt the preamble is found; parts of one get their part of it."""
        if self.preamble is None:
            before = self.protected & (self.video.cumsum(-1) == 0) & self.video.any(-1, keepdim=True)
            object.__setattr__(self, "preamble", before & (before.cumsum(-1) > 1))

    @classmethod
    def of(cls, layouts: Sequence[VideoLayout], device: torch.device | str = "cpu") -> "PromptMasks":
        """Masks of prompts that are padded on the left to the longest of them."""
        length = max(layout.length for layout in layouts)
        video = torch.zeros(len(layouts), length, dtype=torch.bool)
        after, valid = torch.zeros_like(video), torch.zeros_like(video)
        frame, spot = torch.zeros(2, len(layouts), length, dtype=torch.int64)
        for row, layout in enumerate(layouts):
            pad = length - layout.length
            valid[row, pad:] = True
            video[row, layout.prunable + pad] = True
            after[row, layout.after + pad :] = True
            frame[row, layout.video + pad], spot[row, layout.video + pad] = layout.frames_and_spots()
            if sounds := len(layout.audio):
                frame[row, layout.audio + pad] = torch.arange(sounds) * layout.grid[0] // sounds
                spot[row, layout.audio + pad] = max(1, *(rows * columns for _, rows, columns in layout.grids))
        return cls(*(each.to(device) for each in (video, after, valid, frame, spot)))

    def map(self, change: Callable[[Tensor], Tensor]) -> "PromptMasks":
        """The same change to each of them: other rows, other columns, another device."""
        frame, spot = (None if each is None else change(each) for each in (self.frame, self.spot))
        return PromptMasks(
            change(self.video), change(self.after), change(self.valid), frame, spot, change(self.preamble)
        )

    def without_preamble(self, rows: Tensor) -> "PromptMasks":
        """For a layer that drops the text before the video of the prompts `rows`, bool [B].

        Its first token stays, as attention comes to rest there.
        """
        return replace(self, valid=self.valid & ~(self.preamble & rows[:, None]))

    @property
    def protected(self) -> Tensor:
        """bool [B, N]: text, which is kept whatever its score."""
        return self.valid & ~self.video
