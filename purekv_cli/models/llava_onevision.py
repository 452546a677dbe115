"""LLaVA-OneVision: 14 x 14 tokens a frame, and one learned newline after the last frame, which is kept as text is."""

from purekv_cli.models.chat import Seen, VideoChat
from purekv_cli.video.frames import Frames


class LlavaOnevision(VideoChat):
    """A loaded LLaVA-OneVision."""

    def write(self, frames: Frames, seen: Seen) -> tuple[str, list[int]]:
        text, (count,) = super().write(frames, seen)
        return text, [count + 1]
