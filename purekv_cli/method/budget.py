"""How much of the cache stays: a fraction of the prompt's entries, a number of tokens, or bytes."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from purekv_cli.errors import UsageError

_UNITS = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_HINT = "Give a fraction above 0 and up to 1 (0.2), tokens (4096t) or bytes (512MiB)."


@dataclass(frozen=True, slots=True)
class Budget:
    """Per layer and KV head, text included: protected text counts against it."""

    kind: Literal["fraction", "tokens", "bytes"]
    value: float

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read "0.2", "20%", "4096t" or "512MiB"."""
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-z%]*)\s*", text.lower())
        if not match:
            raise UsageError(f"cannot read the budget {text!r}", _HINT)
        number, unit = float(match[1]), match[2]
        if unit in ("", "%"):
            fraction = number / 100 if unit else number
            if not 0 < fraction <= 1:
                raise UsageError(f"the budget {text!r} is not a fraction above 0 and up to 1", _HINT)
            return cls("fraction", fraction)
        if unit in ("t", "tok", "tokens") and number >= 1:
            return cls("tokens", float(int(number)))
        if unit in _UNITS and number > 0:
            return cls("bytes", number * _UNITS[unit])
        raise UsageError(f"cannot read the budget {text!r}", _HINT)

    def entries(self, prompt: int, protected: int, bytes_per_token: int) -> int:
        """Cache entries to keep, per layer and KV head.

        Args:
            prompt: prompt tokens N.
            protected: text tokens that must stay.
            bytes_per_token: K and V bytes of one token over all layers and heads.
        """
        if self.kind == "fraction":
            wanted = math.floor(self.value * prompt + 1e-9)  # never more than was asked for
        else:
            wanted = int(self.value) if self.kind == "tokens" else int(self.value // bytes_per_token)
        if wanted < protected + 1 and prompt > protected:
            least = math.ceil(1000 * (protected + 1) / prompt) / 1000  # rounded up: the advice must work
            raise UsageError(
                f"the budget {self} keeps {wanted} of {prompt} tokens, but {protected} of them are text that must stay",
                f"Give at least {least:g} ({protected + 1}t), or sample more frames.",
            )
        return min(wanted, prompt)

    def __str__(self) -> str:
        if self.kind == "fraction":
            return f"{self.value:g}"
        return f"{self.value:.0f}t" if self.kind == "tokens" else f"{self.value / 2**20:g}MiB"


def layer_entries(entries: int, texts: Sequence[int], video: int, weights: Sequence[float]) -> list[int]:
    """Entries of every layer where layers differ, at the bytes of equal budgets.

    A layer keeps its text and min(video, c * weight) of the video, with c such that all layers together keep
    len(texts) * entries. Rounded as a running sum, so that nothing is lost to rounding.

    Args:
        entries: of every layer, if they were equal.
        texts: text tokens that each layer keeps; video: tokens of the prompt.
        weights: of every layer, above 0; empty: equal.
    """
    layers = len(texts)
    weights = weights or (1.0,) * layers
    left, free, full = float(min(max(0, entries * layers - sum(texts)), video * layers)), math.fsum(weights), 0
    order = sorted(range(layers), key=lambda layer: -weights[layer])
    while free and left * weights[order[full]] >= video * free:  # the heaviest layers keep everything
        left, free, full = left - video, math.fsum(weights[layer] for layer in order[full + 1 :]), full + 1
    whole = set(order[:full])
    parts = [0.0 if layer in whole else left * weights[layer] / free for layer in range(layers)]
    ends = [round(math.fsum(parts[:layer])) for layer in range(layers + 1)]
    return [text + (video if layer in whole else ends[layer + 1] - ends[layer]) for layer, text in enumerate(texts)]
