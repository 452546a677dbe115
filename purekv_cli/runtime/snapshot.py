"""What a session needs to answer further questions about a clip, apart from the model: its cache where they begin."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from purekv_cli.method.layout import VideoLayout
from purekv_cli.models.base import Inputs
from purekv_cli.runtime.cache import CompactCache

if TYPE_CHECKING:
    from purekv_cli.runtime.session import Session


_THREADS = 8


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A pruned cache of M prompt tokens, the ones up to the end of the video."""

    layers: tuple[tuple[Tensor, Tensor, Tensor], ...]  # K and V [1, Hkv, P, D], positions int [1, Hkv or 1, P]
    ids: Tensor  # int64 [1, M]
    positions: Tensor  # int64 [4, 1, M] or [1, M], rotary
    layout: VideoLayout  # of these M
    probe: str | None  # what was read after them while the cache was pruned; None: nothing
    sparse: bool
    propagated: bool

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
        ids, positions = self.ids.to(device), self.positions.to(device)
        rotary = positions[1:] if positions.dim() == 3 else positions
        return Inputs(ids, torch.ones_like(ids), positions, int(rotary.amax()) + 1, self.layout, {}, prefix=self.mark)

    def cache(self, devices: list[torch.device]) -> CompactCache:
        """A cache to go on with, each layer on its device."""
        cache = CompactCache(len(self.layers))
        wanted = [(tensor, device) for layer, device in zip(self.layers, devices, strict=True) for tensor in layer]
        with ThreadPoolExecutor(_THREADS) as pool:
            there = list(pool.map(lambda pair: _moved(*pair), wanted))
        for index, layer in enumerate(cache.layers):
            keys, values, positions = there[3 * index : 3 * index + 3]
            layer.adopt(keys, values, positions.long(), self.mark)
        return cache


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device; a GPU fetches it from pinned memory, of which there is only as much as threads work at once."""
    if tensor.device.type != "cpu" or device.type != "cuda":
        return tensor.to(device)
    pinned = torch.empty(tensor.nbytes, dtype=torch.uint8, pin_memory=True)
    np.copyto(pinned.numpy(), tensor.contiguous().flatten().view(torch.uint8).numpy())
    there = pinned.to(device, non_blocking=True)
    torch.cuda.current_stream(device).synchronize()
    return there.view(tensor.dtype).view(tensor.shape)
