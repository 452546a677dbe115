"""Tensors by their SHA-256: of what is written, and of what is read before any of it is believed.

A GPU fetches from pinned memory. A file's pages are copied there, hashed there and sent from there, a piece at a time
and many tensors side by side: reading, hashing and sending overlap, and what was hashed is what arrives.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from purekv_cli.store.header import Damaged

_BYTE = torch.uint8
_PIECE = 2 * 2**20  # bytes: still in the processor's cache when they are hashed
_THREADS = min(16, os.cpu_count() or 1)


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 of every tensor's type, shape and bytes."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(tensors, pool.map(_digest, tensors.values()), strict=True))


def checked(
    tensors: Mapping[str, Tensor],
    known: Mapping[str, str],
    away: Iterable[str] = (),
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """Those of `tensors` that are wanted on `device`, which may still be on their way there: its stream knows.

    Raises:
        Damaged: the digests of all tensors are not the `known` ones.
    """
    if tensors.keys() != known.keys():
        raise Damaged("its content was changed")
    there = {name: torch.empty_like(tensors[name], device=device) for name in away}
    order = sorted(tensors, key=lambda name: -tensors[name].nbytes)  # the long ones first: none is left for the end
    started: dict[str, Any] = {}
    if device is not None and device.type == "cuda":
        started = {"initializer": torch.cuda.set_stream, "initargs": (torch.cuda.current_stream(device),)}
    with ThreadPoolExecutor(_THREADS, **started) as pool:
        found = pool.map(lambda name: _digest(tensors[name], there.get(name)), order)
        if dict(zip(order, found, strict=True)) != known:
            raise Damaged("its content was changed")
    return there


def _digest(tensor: Tensor, there: Tensor | None = None) -> str:
    """SHA-256 of a tensor on the CPU, whose bytes are sent `there` on the way."""
    found = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    data, target = tensor.flatten().view(_BYTE), None if there is None else there.view(-1).view(_BYTE)
    for start in range(0, len(data), _PIECE):
        piece: Any = data[start : start + _PIECE].numpy()
        found.update(piece if target is None else _sent(piece, target[start : start + _PIECE]))
    return found.hexdigest()


def _sent(piece: Any, there: Tensor) -> Any:
    """The bytes as they were sent; pinned memory is used again as soon as they have arrived."""
    held = torch.empty(len(piece), dtype=_BYTE, pin_memory=there.device.type == "cuda")
    np.copyto(held.numpy(), piece)
    there.copy_(held, non_blocking=True)
    return held.numpy()
