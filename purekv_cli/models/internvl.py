"""InternVL3: a frame is an image of 16 x 16 tokens, numbered and between marks."""

from typing import Any

from torch import Tensor

from purekv_cli.models.chat import Seen, VideoChat
from purekv_cli.video.frames import Frames


class InternVL(VideoChat):
    """A loaded InternVL3."""

    @classmethod
    def video_token_of(cls, config: Any) -> int:
        return int(config.image_token_id)

    def see(self, frames: Frames, features: Tensor | None) -> Seen:
        seen = super().see(frames, features)
        return Seen({"pixel_values": seen.features["pixel_values_videos"][0]}, seen.grid)

    def write(self, frames: Frames, seen: Seen) -> tuple[str, list[int]]:
        steps, rows, columns = seen.grid
        text = "\n".join(f"Frame{number + 1}: <img>{self.video_token}</img>" for number in range(steps))
        return text, [rows * columns] * steps
