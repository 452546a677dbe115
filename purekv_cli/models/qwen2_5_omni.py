"""The thinker of Qwen2.5-Omni, the part that sees and answers in text. A video's sound is not heard here."""

from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from purekv_cli.models.chat import Seen
from purekv_cli.models.positions import VisionTokens
from purekv_cli.models.qwen_vl import QwenVL
from purekv_cli.video.frames import Frames


class QwenOmni(QwenVL):
    """A loaded Qwen2.5-Omni thinker: as Qwen2.5-VL, but a second is 25 positions."""

    placeholder: ClassVar[str] = "<|vision_bos|><|VIDEO|><|vision_eos|>"

    @property
    def tokens(self) -> VisionTokens:
        return replace(super().tokens, tokens_per_second=float(self.model.config.position_id_per_seconds))

    def see(self, frames: Frames, features: Tensor | None) -> Seen:
        seen = super().see(frames, features)
        seen.features["video_second_per_grid"] = seen.features.pop("second_per_grid_ts")
        return seen

    def place(self, ids: Tensor, frames: Frames, seen: Seen) -> Tensor:
        positions = super().place(ids, frames, seen)
        del seen.features["mm_token_type_ids"]
        return positions
