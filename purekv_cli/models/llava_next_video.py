"""LLaVA-NeXT-Video: the middle of a frame as a square, 12 x 12 tokens each, one after the other."""

from purekv_cli.models.chat import VideoChat


class LlavaNextVideo(VideoChat):
    """A loaded LLaVA-NeXT-Video."""
