"""The questions of a captured clip with an answer to follow: the true one, or else the dense model's own."""

from collections.abc import Sequence

import torch

from purekv_cli.eval import replay
from purekv_cli.eval.records import Item
from purekv_cli.eval.replay_prefill import Captured
from purekv_cli.eval.replay_rows import Asked, Row, next_tokens

_EVERYTHING = Row((), False, False)


def asked_of(clip: Captured, items: Sequence[Item], longest: int) -> list[Asked]:
    """All questions and answers, read densely in one batch.

    Args:
        items: an empty `truth` stands for dense's own greedy answer, of `longest` tokens at most.
    """
    return replay.asked_of(clip, items, lambda tail: _greedy(clip, tail, longest))


def _greedy(clip: Captured, tail: torch.Tensor, longest: int) -> torch.Tensor:
    """Dense's answer, int64 [n], without its end."""
    texts = clip.texts([tail])
    opened = Asked(tail, tail[:0], clip.logprobs(texts.hidden[0, -1:]), texts, 0)
    said: list[int] = []
    token = int(opened.dense[0].argmax())
    while token not in clip.adapter.stop_ids and len(said) < longest:
        said.append(token)
        token = next_tokens(clip, opened, [_EVERYTHING], [said])[0]
    return torch.tensor(said, dtype=torch.int64, device=tail.device)
