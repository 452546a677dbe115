"""What a session needs to answer further questions about a clip, apart from the model: its cache where they begin."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from purekv_cli.method.layout import VideoLayout
from purekv_cli.models.base import Inputs
from purekv_cli.runtime.cache import CompactCache

if TYPE_CHECKING:
    from purekv_cli.runtime.session import Session


Layer = tuple[Tensor, Tensor, Tensor]
"""K and V [1, Hkv, P, D], positions int [1, Hkv or 1, P]."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A pruned cache of M prompt tokens, the ones up to the end of the video."""

    layers: tuple[Layer, ...]
    ids: Tensor  # int64 [1, M]
    positions: Tensor  # int64 [4, 1, M] or [1, M], rotary
    layout: VideoLayout  # of these M
    probe: str | None  # what was read after them while the cache was pruned; None: nothing
    sparse: bool
    propagated: bool
    ahead: list[Layer] = field(default_factory=list)  # the layers, sent to a device already: the next cache takes them

    @classmethod
    def of(cls, session: "Session") -> "Snapshot | None":
        """Of a session, whatever was asked since; nothing is copied. None: it shares no prefill."""
        if session.cache is None or session.mark is None:
            return None
        layers = []
        for layer in session.cache.layers:
            since = layer.get_seq_length() - session.mark  # what follows the mark is the physical tail
            keys, values, positions = layer.stored()
            stays = layer.entries - since
            layers.append((keys[:, :, :stays], values[:, :, :stays], positions[..., :stays]))
        inputs, mark = session.inputs, session.mark
        return cls(
            tuple(layers),
            inputs.input_ids[:, :mark],
            inputs.position_ids[..., :mark],
            replace(inputs.layout, length=mark),
            session.probe,
            session.sparse,
            session.propagated,
        )

    @property
    def mark(self) -> int:
        """M."""
        return self.ids.shape[1]

    def inputs(self, device: torch.device) -> Inputs:
        """The prompt up to the end of the video, without what the vision tower would read."""
        rotary = self.positions[1:] if self.positions.dim() == 3 else self.positions
        following = int(rotary.amax()) + 1
        ids, positions = self.ids.to(device), self.positions.to(device)
        return Inputs(ids, torch.ones_like(ids), positions, following, self.layout, {}, prefix=self.mark)

    def cache(self, devices: list[torch.device]) -> CompactCache:
        """A cache to go on with, each layer on its device."""
        cache, layers = CompactCache(len(self.layers)), self.ahead or self.layers
        for layer, tensors, device in zip(cache.layers, layers, devices, strict=True):
            keys, values, positions = (tensor.to(device) for tensor in tensors)
            layer.adopt(keys, values, positions.long(), self.mark)
        self.ahead.clear()
        return cache
