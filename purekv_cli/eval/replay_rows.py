"""The true answer fed over what every arm keeps, many arms at once: is every token the first choice?

Rows of one question that keep equally many entries in all layers and heads go together and need no mask. The others go
together by size, padded, and what is not there is masked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from purekv_cli.eval.replay_forward import Past, read
from purekv_cli.eval.replay_prefill import Captured, Texts
from purekv_cli.runtime.embed import embed_tokens

_TOKENS = {"cpu": 2**12, "cuda": 2**16}  # of all rows of a forward, about: bounds activations
_GATHERED = {"cpu": 2**24, "cuda": 2**30}  # elements of a layer's keys, gathered for all rows of a forward
_LOGITS = {"cpu": 2**24, "cuda": 2**28}  # elements of a block of logits


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of the clip with its true answer as tokens, and what the dense model makes of them."""

    tail: Tensor  # int64 [n], the question and the opening of the answer
    truth: Tensor  # int64 [m], the answer without its end
    dense: Tensor  # float32 [m + 1, vocabulary], log-probabilities of the answer's tokens and its end
    texts: Texts
    row: int  # of `texts`


@dataclass(frozen=True, slots=True)
class Row:
    """One arm of one question."""

    kept: tuple[
        Tensor | Past, ...
    ]  # of every layer int64 [Hkv or 1, k], entries of the prefix, -1 in holes; or entries
    # of a prefill of its own: [1, Hkv, k, D]; none: everything stays, as in the dense model
    holes: bool
    after_prompt: bool  # pruned after the question: its own entries, and the first choice, are those of the prefill
    first: Tensor | None = None  # float32 [1, vocabulary], log-probabilities of that choice; None: dense ones

    @property
    def group(self) -> tuple[object, ...]:
        """Rows with the same go together."""
        counts, own = self.counts, bool(self.kept) and isinstance(self.kept[0], Past)
        if len(set(counts)) == 1 and not self.holes and not own:
            return self.after_prompt, counts[0]
        return self.after_prompt, "own" if own else "uneven" if counts else "dense", max(counts, default=0).bit_length()

    @property
    def counts(self) -> list[int]:
        """Entries of every layer."""
        return [layer.key.shape[2] if isinstance(layer, Past) else layer.shape[-1] for layer in self.kept]


Told = tuple[list[int], float, float]  # m + 1 first choices; KL(dense || arm) in nats, mean over these places; share
# of the places where dense chooses the same


def tell(clip: Captured, asked: Asked, rows: Sequence[Row]) -> list[Told]:
    """What came of every row."""
    order, told = [], []
    for numbers in _groups(clip, asked, rows, [len(asked.truth)] * len(rows)):
        part = [rows[number] for number in numbers]
        if part[0].kept:
            found = _logprobs(clip, asked, part, asked.truth.expand(len(part), -1))
        else:
            found = asked.dense.expand(len(part), -1, -1)
        order += numbers
        told.append(_told(asked.dense, found))
    if not order:
        return []
    choices, figures = (torch.cat(parts).tolist() for parts in zip(*told, strict=True))
    by_row = dict(zip(order, zip(choices, figures, strict=True), strict=True))
    return [(by_row[n][0], *by_row[n][1]) for n in range(len(rows))]


def next_tokens(clip: Captured, asked: Asked, rows: Sequence[Row], answers: Sequence[Sequence[int]]) -> list[int]:
    """The first choice of every row after the tokens of its own answer so far."""
    order, found = [], []
    for numbers in _groups(clip, asked, rows, [len(answer) for answer in answers]):
        given = [answers[number] for number in numbers]
        so_far = torch.tensor(given, dtype=torch.int64, device=asked.tail.device)
        order += numbers
        found.append(_logprobs(clip, asked, [rows[number] for number in numbers], so_far)[:, -1].argmax(-1))
    chosen = dict(zip(order, torch.cat(found).tolist(), strict=True)) if order else {}
    return [chosen[number] for number in range(len(rows))]


def _groups(clip: Captured, asked: Asked, rows: Sequence[Row], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of rows that go together and have answers of one length; as many as memory allows."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        groups.setdefault((row.group, length), []).append(number)
    kind, key = clip.embeds.device.type, clip.states[0].key
    for numbers in groups.values():
        tokens = len(asked.tail) + lengths[numbers[0]]
        entries = max((max(rows[number].counts, default=0) for number in numbers), default=0)
        gathered = key.shape[1] * key.shape[3] * max(1, entries)
        most = max(1, min(_TOKENS.get(kind, 2**12) // tokens, _GATHERED.get(kind, 2**24) // gathered))
        for at in range(0, len(numbers), most):
            yield numbers[at : at + most]


def _told(dense: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """Choices int64 [R, m + 1], KL and agreement float32 [R, 2], of log-probabilities [R, m + 1, vocabulary]."""
    choices = logprobs.argmax(-1)
    kl = (dense.exp() * (dense - logprobs)).sum(-1).mean(-1).clamp(min=0.0)
    agreement = (choices == dense.argmax(-1)).float().mean(-1)
    return choices, torch.stack([kl, agreement], 1)


def _logprobs(clip: Captured, asked: Asked, rows: Sequence[Row], answers: Tensor) -> Tensor:
    """float32 [R, m + 1, vocabulary] of rows of one group with answers int64 [R, m]."""
    tail, after = len(asked.tail), rows[0].after_prompt
    first = torch.stack([asked.dense[:1] if row.first is None else row.first for row in rows]) if after else None
    if first is not None and not answers.shape[1]:
        return first
    ids = answers if after else torch.cat([asked.tail.expand(len(rows), -1), answers], 1)
    pasts = [_past(clip, asked, rows, index) for index in range(len(clip.states))]
    embeds = embed_tokens(clip.adapter.model, ids)
    hidden, _ = read(clip.weights, embeds, clip.turn(tail if after else 0, ids.shape[1]), pasts)
    hidden = hidden if after else hidden[:, tail - 1 :]
    step = max(1, _LOGITS.get(hidden.device.type, 2**24) // (hidden.shape[1] * len(clip.weights.head)))
    logprobs = torch.cat([clip.logprobs(part) for part in hidden.split(step)])
    return logprobs if first is None else torch.cat([first, logprobs], 1)


def _past(clip: Captured, asked: Asked, rows: Sequence[Row], index: int) -> Past:
    """What the rows read of layer `index` before their own tokens."""
    if rows[0].kept and isinstance(rows[0].kept[0], Past):
        return _side_by_side([row.kept[index] for row in rows])  # type: ignore[misc]
    states = clip.states[index]
    heads, length, dim = states.key.shape[1:]
    every = torch.arange(length, device=states.key.device)[None]
    sets = [row.kept[index] if row.kept else every for row in rows]
    wide = {each.shape[-1] for each in sets if isinstance(each, Tensor)}
    chosen = _stacked([each.expand(heads, -1) for each in sets if isinstance(each, Tensor)], max(wide))
    there = chosen >= 0 if len(wide) > 1 or any(row.holes for row in rows) else None
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


def _stacked(sets: Sequence[Tensor], wide: int) -> Tensor:
    """int64 [R, Hkv, wide] of sets [Hkv, k], filled up with -1."""
    return torch.stack(
        [each if each.shape[-1] == wide else F.pad(each, (0, wide - each.shape[-1]), value=-1) for each in sets]
    )


def _side_by_side(pasts: Sequence[Past]) -> Past:
    """Pasts of one row each as those of many, the shorter padded."""
    key, value = (
        pad_sequence([getattr(past, name)[0].transpose(0, 1) for past in pasts], batch_first=True).transpose(1, 2)
        for name in ("key", "value")
    )
    if len({past.key.shape[2] for past in pasts}) == 1 and all(past.there is None for past in pasts):
        return Past(key, value)
    heads, wide = key.shape[1:3]
    rows = []
    for past in pasts:
        count = past.key.shape[2]
        there = torch.ones(1, 1, count, dtype=torch.bool, device=key.device) if past.there is None else past.there
        rows.append(F.pad(there[0].expand(heads, -1), (0, wide - count)))
    return Past(key, value, torch.stack(rows))
