"""What a run really cost: K and V bytes by the tensors that exist, time by the clock of the device that works.

Live bytes are counted by weak references to every K and V tensor that passes, once per storage, so a view or an alias
counts once and a tensor that someone else keeps alive goes on counting: the number can't flatter. Times on CUDA are
taken with events and read at the end of a stage, so measuring does not stall the queue.
"""

import time
import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class KVMeter:
    """Watches K and V tensors; `live()` is what exists now, `peak` the most seen at any look."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}  # with its storage's address and bytes
        self.peak = 0

    def watch(self, *tensors: Tensor | None) -> None:
        """Count these from now on for as long as they are alive, and look."""
        for tensor in tensors:
            if tensor is not None:
                storage = tensor.untyped_storage()
                self._seen[id(tensor)] = weakref.ref(tensor), storage.data_ptr(), storage.nbytes()
        self.peak = max(self.peak, self.live())

    def live(self) -> int:
        """K and V bytes alive now."""
        self._seen = {key: seen for key, seen in self._seen.items() if seen[0]() is not None}
        return sum({address: size for _, address, size in self._seen.values()}.values())


class StageClock:
    """Seconds by stage; a stage may be entered many times."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._device = device
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = defaultdict(list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a whole stage: the device is waited for at its end."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.wait()
            self._seconds[name] += time.perf_counter() - start

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part of a stage without waiting for the device."""
        if not self._cuda:
            with self.stage(name):
                yield
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        stream = torch.cuda.current_stream(self._device)
        begin.record(stream)
        try:
            yield
        finally:
            end.record(stream)
            self._events[name].append((begin, end))

    def seconds(self, name: str) -> float:
        """What stage or part `name` took so far."""
        pairs = self._events.pop(name, [])
        if pairs:
            self.wait()
            self._seconds[name] += sum(begin.elapsed_time(end) for begin, end in pairs) / 1000
        return self._seconds[name]

    def wait(self) -> None:
        """Wait for the device."""
        if self._cuda:
            torch.cuda.synchronize(self._device)
