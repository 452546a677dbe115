"""Video features while the clip is still being decoded: frames in as they come, features out at the end.

A temporal step never sees another one, so steps can go through the tower as soon as their frames are there, in any
order. The GPU works on a stream of its own, the decoder on the CPU; whoever decodes only queues work here. The result
is that of the tower in one go.
"""

import threading
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from purekv_cli.models.geometry import ModelGeometry
from purekv_cli.models.preprocess import PixelScale, to_patches, upload
from purekv_cli.runtime.vision import CHUNK_PATCHES, step_features
from purekv_cli.runtime.vision_weights import read_tower
from purekv_cli.runtime.weights import Unsupported
from purekv_cli.video.decode import OnFrame, decode
from purekv_cli.video.frames import Frames
from purekv_cli.video.info import VideoInfo
from purekv_cli.video.sample import SamplePlan

if TYPE_CHECKING:
    from purekv_cli.models.base import Adapter

STREAM_PATCHES = CHUNK_PATCHES // 2  # queued at once: the last ones are what decoding does not hide


def decode_and_embed(
    adapter: "Adapter", info: VideoInfo, plan: SamplePlan, size: tuple[int, int], on_frame: OnFrame | None = None
) -> tuple[Frames, Tensor | None]:
    """The frames of `decode`, and what the tower makes of them, [V, hidden], for `adapter.prepare`.

    The features are None where nothing is gained by making them now: on a CPU, which decodes, and for towers that the
    fast path does not know. They may still be in the making on a GPU; its current stream waits for them.

    Args:
        size: (height, width), multiples of a cell.
    """
    try:
        stream = StreamingEmbedder(adapter.model, adapter.geometry, adapter.scale)
    except Unsupported:
        return decode(info, plan, size, on_frame), None
    if stream.device.type != "cuda":
        return decode(info, plan, size, on_frame), None
    frames = decode(info, plan, size, on_frame, on_pixels=stream.ready)
    return frames, stream.finish(len(frames.pixels))


class StreamingEmbedder:
    """Give `ready` to `decode` as `on_pixels`, then ask `finish` for the features.

    They go where the model looks first, `Inputs.features["video_features"]`, together with "video_grid_thw"; the pixels
    need not be there then. Thread-safe: several decoders may fill different parts of one clip.

    Raises:
        Unsupported: the model's tower is not one that `read_tower` knows.
    """

    def __init__(
        self, model: PreTrainedModel, geometry: ModelGeometry, scale: PixelScale, chunk: int = STREAM_PATCHES
    ) -> None:
        self._tower = read_tower(model)
        self._geometry, self._scale, self._chunk = geometry, scale, chunk
        self._stream = _stream_of(self._tower.device) if self._tower.device.type == "cuda" else None
        self._lock = threading.Lock()
        self._pixels: NDArray[np.uint8] | None = None  # [N, H, W, 3], filled by the decoder
        self._out: Tensor | None = None  # [T, cells, hidden]
        self._begun = False  # frame 0 has come
        self._there: set[int] = set()  # frames of steps that are not whole yet
        self._waiting: set[int] = set()  # whole steps not yet queued

    @property
    def device(self) -> torch.device:
        """Where the features are made."""
        return self._tower.device

    def ready(self, pixels: NDArray[np.uint8], first: int, stop: int) -> None:
        """Frames first..stop-1 of `pixels` [N, H, W, 3] will not change any more.

        `pixels` is the same array at every call; its sides are multiples of a cell. Frame 0 coming again means that all
        frames will.
        """
        depth = self._geometry.temporal_patch
        with self._lock:
            if first == 0 and self._begun:
                self._there, self._waiting = set(), set()
            self._begun |= first == 0
            self._pixels = pixels
            self._there.update(range(first, stop))
            for step in range(first // depth, -(-stop // depth)):
                frames = set(range(step * depth, (step + 1) * depth))
                if frames <= self._there:
                    self._there -= frames
                    self._waiting.add(step)
            if len(self._waiting) * self._patches >= self._chunk:
                self._queue()

    def finish(self, count: int) -> Tensor:
        """Features of the first `count` frames, [V, hidden] in frame-major order; an odd last frame is repeated."""
        if self._pixels is None or not count:
            raise ValueError("no frame was given")
        with self._lock:
            if count % self._geometry.temporal_patch:
                self._waiting.add(count // self._geometry.temporal_patch)
            self._pixels = self._pixels[:count]
            self._queue()
            assert self._out is not None
            if self._stream is not None:
                here = torch.cuda.current_stream(self._tower.device)
                here.wait_stream(self._stream)
                self._out.record_stream(here)
            steps = -(-count // self._geometry.temporal_patch)
            return self._out[:steps].flatten(0, 1)

    @property
    def _grid(self) -> tuple[int, int]:
        assert self._pixels is not None
        height, width = self._pixels.shape[1:3]
        return height // self._geometry.patch, width // self._geometry.patch

    @property
    def _patches(self) -> int:
        """Of one temporal step."""
        return self._grid[0] * self._grid[1]

    @torch.no_grad()
    def _queue(self) -> None:
        """Send all waiting steps through the tower."""
        assert self._pixels is not None
        depth, unit, (rows, columns) = self._geometry.temporal_patch, self._tower.merge**2, self._grid
        with self._on_stream():
            if self._out is None:
                steps = -(-len(self._pixels) // depth)
                shape = (steps, rows * columns // unit, len(self._tower.merger_out))
                self._out = torch.empty(shape, dtype=self._tower.dtype, device=self._tower.device)
            runs = _runs(self._waiting)
            self._waiting = set()
            parts = []
            for first, stop in runs:
                frames = torch.from_numpy(np.ascontiguousarray(self._pixels[first * depth : stop * depth]))
                patches = to_patches(upload(frames, self._tower.device), self._geometry, self._scale)
                parts.append(patches.to(self._tower.dtype).flatten(0, 1))
            if not parts:
                return
            features = step_features(self._tower, torch.cat(parts), rows, columns).unflatten(0, (-1, len(self._out[0])))
            sizes = [stop - first for first, stop in runs]
            for (first, stop), part in zip(runs, features.split(sizes), strict=True):
                self._out[first:stop] = part

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


@lru_cache(maxsize=16)
def _stream_of(device: torch.device) -> torch.cuda.Stream:
    """One for all clips: torch keeps freed memory by stream, so a new stream would allocate everything anew."""
    return torch.cuda.Stream(device)


def _runs(steps: set[int]) -> list[tuple[int, int]]:
    """The numbers as runs (first, stop), ascending."""
    runs: list[tuple[int, int]] = []
    for step in sorted(steps):
        if runs and runs[-1][1] == step:
            runs[-1] = (runs[-1][0], step + 1)
        else:
            runs.append((step, step + 1))
    return runs
