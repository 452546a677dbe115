"""A KV cache that stores only what was kept, and still counts every token the model has seen.

Storage is compact: each layer holds its own number of entries, each KV head its own choice of them, with the position
every entry had in the prompt. The length that the model asks for stays the logical one, so rotary positions, masks and
`generate()` go on as if nothing had been dropped. New tokens are always the physical tail and later than every kept
entry, so causality needs no positions: only holes (heads that kept fewer) and left padding are masked.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from purekv_cli.kernels.compact import compact
from purekv_cli.runtime.prompt import Prompt

_ROOM = 64  # at most so many entries are allocated ahead when tokens are appended one by one


class CompactLayer(DynamicLayer):
    """K and V [B, Hkv, P, D] of one layer and the logical position of each entry."""

    is_sliding = False
    is_croppable = True

    def __init__(self) -> None:
        super().__init__()
        self._forget()

    def _forget(self) -> None:
        self.keys: Tensor | None = None  # [B, Hkv, P, D]: the filled part of the room
        self.values: Tensor | None = None
        self.positions: Tensor | None = None  # int64 [B, Hkv or 1, P]; -1: a hole, this head kept fewer entries
        self.is_initialized = False
        self.cumulative_length = 0  # logical: tokens seen
        self.settled = 0  # entries in front that a prefill has already judged
        self.pruned = 0  # entries in front that are what a pruning left: they can't be cropped
        self._room: tuple[Tensor, Tensor] | None = None  # K and V with space for the next tokens
        self._reserved = 0
        self._holes: bool | Tensor = False

    def reserve(self, tokens: int) -> None:
        """Say before the first token how many will come in steps: room is made once, not grown and copied each time."""
        self._reserved = tokens

    @property
    def entries(self) -> int:
        """Physical entries P."""
        return 0 if self.keys is None else self.keys.shape[-2]

    @property
    def kept_pos(self) -> Tensor:
        """Logical positions of the entries, int64 [B, Hkv, P], -1 in holes."""
        keys, _, positions = self.stored()
        return positions.expand(keys.shape[0], keys.shape[1], -1)

    def stored(self) -> tuple[Tensor, Tensor, Tensor]:
        """K, V and positions; only of a layer that has seen tokens."""
        if self.keys is None or self.values is None or self.positions is None:
            raise ValueError("this cache layer is empty")
        return self.keys, self.values, self.positions

    @property
    def kv_bytes(self) -> int:
        """Bytes of the K and V tensors, the room for the next tokens included."""
        held = self._room or (self.keys, self.values)
        return sum(t.numel() * t.element_size() for t in held if t is not None)

    @property
    def entry_bytes(self) -> int:
        """K and V bytes of one entry in all heads."""
        keys, _, _ = self.stored()
        return 2 * keys.shape[1] * keys.shape[3] * keys.element_size()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append new tokens; returns all entries."""
        new, start = key_states.shape[-2], self.cumulative_length
        numbers = torch.arange(start, start + new, device=key_states.device).expand(key_states.shape[0], 1, new)
        self.cumulative_length += new
        if self.keys is None:
            self.dtype, self.device = key_states.dtype, key_states.device
            if self._reserved > new:
                self._room = (_roomy(key_states, self._reserved - new), _roomy(value_states, self._reserved - new))
                key_states, value_states = (room[:, :, :new] for room in self._room)
            self.keys, self.values, self.positions = key_states, value_states, numbers
            self.is_initialized = True
            return key_states, value_states
        keys, values, positions = self.stored()
        self.positions = torch.cat([positions, numbers.expand(-1, positions.shape[1], -1)], -1)
        filled = keys.shape[-2]
        if self._room is None or self._room[0].shape[-2] < filled + new or _is_frozen(self._room[0]):
            more = new if new > 1 else max(1, min(_ROOM, filled // 8))  # single tokens: more of them will follow
            self._room = (_roomy(keys, more), _roomy(values, more))
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, filled : filled + new].copy_(states)
        self.keys, self.values = (room[:, :, : filled + new] for room in self._room)
        return self.keys, self.values

    def adopt(self, keys: Tensor, values: Tensor, positions: Tensor, seen: int) -> None:
        """Take over what a prefill of `seen` tokens has kept.

        Args:
            keys, values: [B, Hkv, P, D].
            positions: int64 [B, Hkv or 1, P], -1 in holes, which are only possible where entries were dropped.
            seen: tokens of the prompt.
        """
        self.reset()
        self.dtype, self.device = keys.dtype, keys.device
        self.keys, self.values, self.positions = keys, values, positions
        self.is_initialized = True
        self.cumulative_length = seen
        self.settled = keys.shape[-2]
        if self.settled < seen:
            self.pruned = self.settled
            self._holes = (positions < 0).any()

    def prune(self, rows: Tensor, start: int = 0) -> None:
        """Keep only `rows` of the entries from `start` on; the others are freed.

        Args:
            rows: int64 [B, Hkv or 1, P], indices relative to `start`, -1 at the end of heads that keep fewer.
            start: entries before it stay as they are.
        """
        old_keys, old_values, old = self.stored()
        rows = rows.to(old_keys.device)
        keys, values = compact(old_keys[:, :, start:], old_values[:, :, start:], rows)
        batch, heads = old_keys.shape[0], max(rows.shape[1], old.shape[1])
        rows = rows.expand(batch, heads, -1)
        tail = old[..., start:].expand(batch, heads, -1)
        positions = tail.gather(-1, rows.clamp(min=0)).masked_fill(rows < 0, -1)
        if start:
            keys = torch.cat([old_keys[:, :, :start], keys], -2)
            values = torch.cat([old_values[:, :, :start], values], -2)
            positions = torch.cat([old[..., :start].expand(-1, heads, -1), positions], -1)
        self.keys, self.values, self.positions = keys, values, positions
        self._room = None
        self._holes = (positions < 0).any()
        self.settled = self.pruned = keys.shape[-2]

    @property
    def has_holes(self) -> bool:
        """Whether some head keeps fewer entries than others; asks the device once after a pruning."""
        self._holes = bool(self._holes)
        return self._holes

    def readable(self, valid: Tensor | None) -> Tensor | None:
        """Which entries a new token may read, bool [B, Hkv or 1, 1, P]; None: all of them.

        Args:
            valid: bool [B, logical length], False where the prompt is padded; None: nowhere.
        """
        if valid is None and not self.has_holes:
            return None
        _, _, positions = self.stored()
        seen = positions >= 0
        if valid is not None:
            real = valid.to(seen.device)[:, None].expand(-1, positions.shape[1], -1)
            seen = seen & real.gather(-1, positions.clamp(min=0))
        return seen[:, :, None]

    def get_seq_length(self) -> int:
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cumulative_length + query_length, 0

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens (a negative number of them); what a prefill has pruned can't be cropped."""
        count = abs(tokens_to_remove)
        if count == 0 or self.keys is None:
            return
        if self.entries - count < self.pruned:
            raise ValueError(f"cannot crop {count} tokens: only {self.entries - self.pruned} follow what was pruned")
        keys, values, positions = self.stored()
        self.keys, self.values, self.positions = keys[:, :, :-count], values[:, :, :-count], positions[..., :-count]
        self.cumulative_length -= count

    def forget(self, length: int) -> None:
        """Drop every entry from position `length` on, pruned or not, as if only what is before it had come."""
        gone = max(0, self.cumulative_length - length)
        if not gone or not self.pruned:
            self.crop(gone)
            return
        _, _, positions = self.stored()
        stays = (positions >= 0) & (positions < length)
        number = torch.arange(positions.shape[-1], device=positions.device)
        rows = torch.where(stays, number, len(number)).sort(-1).values[..., : int(stays.sum(-1).max())]
        self.prune(rows.masked_fill(rows == len(number), -1))
        self.cumulative_length = length

    def reset(self) -> None:
        self._forget()

    def _rebatch(self, rows: Tensor) -> None:
        if self.keys is None:
            return
        keys, values, positions = (t.index_select(0, rows.to(t.device)) for t in self.stored())
        self.keys, self.values, self.positions = keys, values, positions
        self._room = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._rebatch(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.keys is not None:
            self._rebatch(torch.arange(self.keys.shape[0]).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._rebatch(indices.nonzero().flatten() if indices.dtype == torch.bool else indices)


class CompactCache(Cache):
    """One `CompactLayer` a decoder layer; `prompt` says what it is for and follows it to other batch rows."""

    layers: list[CompactLayer]  # type: ignore[assignment]

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[CompactLayer() for _ in range(layers)])
        self.prompt: Prompt | None = None
        self.sparse = self.propagated = False  # how a fast prefill read the prompt: what ran, not what was asked for

    def kv_bytes(self) -> int:
        """Bytes of all K and V tensors."""
        return sum(layer.kv_bytes for layer in self.layers)

    @property
    def kept(self) -> list[Tensor]:
        """Logical positions of every layer's entries, int64 [B, Hkv, P], -1 in holes."""
        return [layer.kept_pos for layer in self.layers]

    def mark(self) -> int:
        """A place to come back to with `rewind`."""
        return self.get_seq_length()

    def rewind(self, mark: int) -> None:
        """Forget every token after `mark`: nothing is copied, so many questions share one prefill."""
        for layer in self.layers:  # each by its own length: an interrupted forward has reached only some
            layer.crop(mark - layer.get_seq_length())

    def forget(self, length: int) -> None:
        """Drop every entry from prompt position `length` on, pruned or not: other text is read over what stays."""
        for layer in self.layers:
            layer.forget(length)

    def reset(self) -> None:
        super().reset()
        self.prompt = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        if self.prompt is not None:
            self.prompt.reorder(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        rows = self.layers[0].entries and self.layers[0].kept_pos.shape[0]
        super().batch_repeat_interleave(repeats)
        if self.prompt is not None and rows:
            self.prompt.reorder(torch.arange(rows).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        if self.prompt is not None:
            self.prompt.reorder(indices.nonzero().flatten() if indices.dtype == torch.bool else indices)


def _roomy(states: Tensor, more: int) -> Tensor:
    """A copy of `states` with space for `more` entries behind it."""
    batch, heads, filled, dim = states.shape
    room = states.new_empty(batch, heads, filled + more, dim)
    room[:, :, :filled].copy_(states)
    return room


def _is_frozen(tensor: Tensor) -> bool:
    """Tensors made in inference mode must not be written outside of it."""
    return tensor.is_inference() and not torch.is_inference_mode_enabled()
