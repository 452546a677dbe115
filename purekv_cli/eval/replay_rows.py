"""The true answer fed over what every arm keeps, many arms at once: is every token the first choice?

Rows of one question whose layers keep equally many entries go together, so none needs a mask; where heads keep sets of
different size, holes are masked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from purekv_cli.eval.replay_forward import Past, read
from purekv_cli.eval.replay_prefill import Captured, Texts
from purekv_cli.runtime.embed import embed_tokens

_TOKENS = {"cpu": 2**12, "cuda": 2**16}  # of all rows of a forward, about: bounds activations
_LOGITS = {"cpu": 2**24, "cuda": 2**28}  # elements of a block of logits


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of the clip with its true answer as tokens, and what the dense model makes of them."""

    tail: Tensor  # int64 [n], the question and the opening of the answer
    truth: Tensor  # int64 [m], the answer without its end
    dense: Tensor  # float32 [m + 1, vocabulary], log-probabilities of the answer's tokens and its end
    texts: Texts
    row: int  # of `texts`

    @property
    def ids(self) -> Tensor:
        """int64 [n + m]: what is fed."""
        return torch.cat([self.tail, self.truth])


@dataclass(frozen=True, slots=True)
class Row:
    """One arm of one question."""

    kept: tuple[
        Tensor | Past, ...
    ]  # of every layer int64 [Hkv or 1, k], entries of the prefix, -1 in holes; or entries
    # of a prefill of its own: [1, Hkv, k, D]
    holes: bool
    after_prompt: bool  # pruned after the question: its own entries, and the first choice, are those of the prefill
    first: Tensor | None = None  # float32 [1, vocabulary], log-probabilities of that choice; None: dense ones

    @property
    def shape(self) -> tuple[object, ...]:
        """Rows with the same go together."""
        alone = id(self) if any(isinstance(layer, Past) for layer in self.kept) else None
        return self.after_prompt, self.holes, alone, *(_count(layer) for layer in self.kept)


Told = tuple[list[int], float, float]  # m + 1 first choices; KL(dense || arm) in nats, mean over these places; share
# of the places where dense chooses the same


def tell(clip: Captured, asked: Asked, rows: Sequence[Row]) -> list[Told]:
    """What came of every row."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.shape, []).append(number)
    kind = clip.embeds.device.type
    most = max(1, _TOKENS.get(kind, 2**12) // len(asked.ids))
    order, told = [], []
    for numbers in groups.values():
        for at in range(0, len(numbers), most):
            part = numbers[at : at + most]
            order += part
            same = asked.dense.expand(len(part), -1, -1)
            found = same if not rows[part[0]].kept else _logprobs(clip, asked, [rows[number] for number in part])
            told.append(_told(asked.dense, found))
    if not order:
        return []
    choices, figures = (torch.cat(parts).tolist() for parts in zip(*told, strict=True))
    by_row = dict(zip(order, zip(choices, figures, strict=True), strict=True))
    return [(by_row[n][0], *by_row[n][1]) for n in range(len(rows))]


def greedy(clip: Captured, asked: Asked, row: Row, stops: frozenset[int], most: int) -> list[int]:
    """The answer the arm generates, token by token, without its end."""
    tokens: list[int] = []
    while len(tokens) < most:
        truth = torch.tensor(tokens, dtype=torch.int64, device=asked.tail.device)
        longer = Asked(asked.tail, truth, asked.dense[:1], asked.texts, asked.row)
        token = int(_logprobs(clip, longer, [row])[0, -1].argmax())
        if token in stops:
            break
        tokens.append(token)
    return tokens


def _count(layer: Tensor | Past) -> int:
    return layer.key.shape[2] if isinstance(layer, Past) else layer.shape[-1]


def _told(dense: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """Choices int64 [R, m + 1], KL and agreement float32 [R, 2], of log-probabilities [R, m + 1, vocabulary]."""
    choices = logprobs.argmax(-1)
    kl = (dense.exp() * (dense - logprobs)).sum(-1).mean(-1).clamp(min=0.0)
    agreement = (choices == dense.argmax(-1)).float().mean(-1)
    return choices, torch.stack([kl, agreement], 1)


def _logprobs(clip: Captured, asked: Asked, rows: Sequence[Row]) -> Tensor:
    """float32 [R, m + 1, vocabulary] of rows of one shape."""
    tail, after = len(asked.tail), rows[0].after_prompt
    pasts = [_past(clip, asked, rows, index) for index in range(len(clip.states))]
    ids = asked.truth if after else asked.ids
    first = asked.dense[:1] if rows[0].first is None else rows[0].first
    first = first.expand(len(rows), -1, -1)
    if not len(ids):
        return first
    embeds = embed_tokens(clip.adapter.model, ids[None]).expand(len(rows), -1, -1)
    hidden, _ = read(clip.weights, embeds, clip.turn(tail if after else 0, len(ids)), pasts)
    hidden = hidden if after else hidden[:, tail - 1 :]
    step = max(1, _LOGITS.get(hidden.device.type, 2**24) // (hidden.shape[1] * len(clip.weights.head)))
    logprobs = torch.cat([clip.logprobs(part) for part in hidden.split(step)])
    return torch.cat([first, logprobs], 1) if after else logprobs


def _past(clip: Captured, asked: Asked, rows: Sequence[Row], index: int) -> Past:
    """What the rows read of layer `index` before their own tokens."""
    states = clip.states[index]
    heads, length, dim = states.key.shape[1:]
    sets = [row.kept[index] if row.kept else torch.arange(length, device=states.key.device)[None] for row in rows]
    if isinstance(sets[0], Past):
        return sets[0]
    chosen = torch.stack([each.expand(heads, -1) for each in sets if isinstance(each, Tensor)])
    there = chosen >= 0 if rows[0].holes else None
    head = torch.arange(heads, device=chosen.device)[:, None] * length
    at = (chosen.clamp(min=0) + head).flatten()
    key, value = (
        t[0].reshape(-1, dim).index_select(0, at).view(*chosen.shape, dim) for t in (states.key, states.value)
    )
    past = Past(key, value, there)
    if not rows[0].after_prompt:
        return past
    tail = asked.texts.states[index].part(asked.row, slice(0, len(asked.tail)))
    key, value, mask = past.then(*(t.expand(len(rows), -1, -1, -1) for t in (tail.key, tail.value)))
    return Past(key, value, None if mask is None else mask[:, :, 0])
