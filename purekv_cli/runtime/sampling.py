"""The next token: the likeliest, or drawn from the nucleus of the distribution with a generator of its own."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import TopPLogitsWarper

from purekv_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class Generation:
    """How an answer is generated."""

    max_tokens: int = 256
    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UsageError(f"cannot answer in {self.max_tokens} tokens", "Give --max-tokens at least 1.")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise UsageError(
                f"cannot sample with temperature {self.temperature:g} and top-p {self.top_p:g}",
                "Give a temperature of 0 or more, and a top-p above 0 and up to 1.",
            )


class Sampler:
    """Draws the tokens of one answer."""

    def __init__(self, generation: Generation, device: torch.device) -> None:
        self._temperature = generation.temperature
        self._nucleus = TopPLogitsWarper(generation.top_p) if generation.top_p < 1 else None
        self._random = torch.Generator(device).manual_seed(generation.seed)

    def next(self, logits: Tensor) -> Tensor:
        """int64 [1, 1] from logits [1, vocabulary]."""
        if self._temperature == 0:
            return logits.argmax(-1, keepdim=True)
        scores = logits.float() / self._temperature
        if self._nucleus is not None:
            scores = self._nucleus(None, scores)
        return torch.multinomial(scores.softmax(-1), 1, generator=self._random)
