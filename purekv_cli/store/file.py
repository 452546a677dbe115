"""One prefill as one safetensors file: written whole or not at all, believed only if every byte is as written.

Reading maps the file into memory; on a CPU the cache then is the file until the first new token is appended, and a GPU
is sent it while it is checked. The digests are no luxury: KV entries with a flipped bit still give an answer.
"""

import os
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from purekv_cli.method.layout import VideoLayout
from purekv_cli.runtime.snapshot import Snapshot
from purekv_cli.store.checked import checked, digests
from purekv_cli.store.header import Damaged, Header
from purekv_cli.store.key import Key

_LAYER = ("keys", "values", "positions")
_BYTE = torch.uint8


@dataclass(frozen=True, slots=True)
class Kept:
    """A clip as a later run gets it back."""

    snapshot: Snapshot
    damage: str | None  # of `Frames`
    strip: tuple[tuple[str, bytes], ...] = ()  # a few frames, as reports show them: (time, JPEG)
    probed: dict[str, Any] | None = None  # of `probed.written`


def tensors_of(kept: Kept) -> dict[str, Tensor]:
    """By name, on the CPU; positions fit into 32 bits."""
    found: dict[str, Tensor] = {}
    for index, (keys, values, positions) in enumerate(kept.snapshot.layers):
        named = zip(_LAYER, (keys, values, positions.int()), strict=True)
        found |= {f"{index:03d}.{name}": tensor for name, tensor in named}
    snapshot = kept.snapshot
    found |= {"ids": snapshot.ids.int(), "positions": snapshot.positions.int()}
    found |= {"video": snapshot.layout.video.int(), "audio": snapshot.layout.audio.int()}
    found |= {f"strip.{i}": torch.frombuffer(bytearray(jpeg), dtype=_BYTE) for i, (_, jpeg) in enumerate(kept.strip)}
    return {name: tensor.cpu().contiguous() for name, tensor in found.items()}


def write(path: Path, key: Key, kept: Kept, tensors: dict[str, Tensor]) -> None:
    """Write a file under another name and move it there; whoever reads meanwhile sees the old one or none.

    What a crash of the machine may lose is noticed by the reader, so nothing is synced.

    Raises:
        OSError, SafetensorError: the disk said no.
    """
    snapshot = kept.snapshot
    state = {
        "layers": len(snapshot.layers),
        "grid": snapshot.layout.grid,
        "probe": snapshot.probe,
        "sparse": snapshot.sparse,
        "propagated": snapshot.propagated,
        "damage": kept.damage,
        "strip": [time for time, _ in kept.strip],
        "probed": kept.probed,
    }
    header = Header(key.name, key.video, key.facts, state, digests(tensors))
    aside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        save_file(tensors, aside, header.metadata())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def read(path: Path, header: Header, device: torch.device | None = None) -> Kept:
    """What was written.

    Args:
        device: where it will be needed; a GPU is sent the layers while they are checked.

    Raises:
        Damaged: a byte is not as it was.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        layers = [[f"{index:03d}.{name}" for name in _LAYER] for index in range(header.state["layers"])]
        sent = checked(tensors, header.tensors, chain(*layers) if device and device.type == "cuda" else (), device)
    except (OSError, SafetensorError) as error:
        raise Damaged(str(error) or type(error).__name__) from None
    state: dict[str, Any] = header.state
    ids, grid = tensors["ids"].long(), tuple(state["grid"])
    layout = VideoLayout(ids.shape[1], tensors["video"].long(), grid, tensors["audio"].long())
    snapshot = Snapshot(
        tuple(tuple(tensors[name] for name in names) for names in layers),  # type: ignore[misc]
        ids,
        tensors["positions"].long(),
        layout,
        state["probe"],
        state["sparse"],
        state["propagated"],
        [tuple(sent[name] for name in names) for names in layers if sent],  # type: ignore[misc]
    )
    pictures = (tensors[f"strip.{index}"].numpy().tobytes() for index in range(len(state["strip"])))
    return Kept(snapshot, state["damage"], tuple(zip(state["strip"], pictures, strict=True)))
