"""SmolVLM2: a sentence about the video, then every frame as an image behind its time stamp.

The library resizes with Lanczos, which torch does not have; here it is bicubic. It has a template of its own for
videos, too, whatever the checkpoint's says.
"""

from datetime import timedelta
from typing import Any, ClassVar

from torch import Tensor
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

from purekv_cli.models.chat import Seen, VideoChat
from purekv_cli.models.preprocess import PixelScale
from purekv_cli.video.frames import Frames

_BELOW_TWENTY = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


class SmolVLM(VideoChat):
    """A loaded SmolVLM2."""

    scaling = PixelScale((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    template: ClassVar[str | None] = DEFAULT_CHAT_TEMPLATE
    after_video: ClassVar[str] = "\n\n"

    @classmethod
    def video_token_of(cls, config: Any) -> int:
        return int(config.image_token_id)

    def see(self, frames: Frames, features: Tensor | None) -> Seen:
        seen = super().see(frames, features)
        return Seen({"pixel_values": seen.features["pixel_values_videos"]}, seen.grid)

    def write(self, frames: Frames, seen: Seen) -> tuple[str, list[int]]:
        steps, rows, columns = seen.grid
        lasts = timedelta(seconds=int(frames.times[-1]))
        text = f"You are provided the following series of {in_words(steps)} frames from a {lasts} [H:MM:SS] video.\n"
        for time in frames.times:
            minutes, seconds = divmod(int(time), 60)
            image = f"<fake_token_around_image><global-img>{self.video_token}<fake_token_around_image>"
            text += f"\nFrame from {minutes:02d}:{seconds:02d}:{image}"
        return text, [rows * columns] * steps


def in_words(number: int) -> str:
    """An English numeral below a million: 121 is "one hundred and twenty-one"."""
    if number < 20:
        return _BELOW_TWENTY[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens - 2] + (f"-{_BELOW_TWENTY[ones]}" if ones else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{_BELOW_TWENTY[hundreds]} hundred" + (f" and {in_words(rest)}" if rest else "")
    thousands, rest = divmod(number, 1000)
    link = "" if not rest else " and " if rest < 100 else ", "
    return f"{in_words(thousands)} thousand{link}{in_words(rest) if rest else ''}"
