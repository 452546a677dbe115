"""Decode groups of pictures side by side: a long clip's frames at many times the speed of one decoder.

A decoder's own threads wait for each other wherever a frame refers to another one; groups of pictures don't. Each
worker has a reader of its own and takes the earliest group that nobody has taken, so that frames come roughly in order.
Where groups are fewer than processors, each decoder has several threads after all.
Only what is exactly right counts: at the first frame that is damaged or not where the probe saw it, all is given up,
and the careful sequential path starts over.
"""

import os
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from queue import SimpleQueue

import av
import numpy as np
from numpy.typing import NDArray

from purekv_cli.errors import UnreadableInput
from purekv_cli.memory import free_memory
from purekv_cli.video.info import VideoInfo
from purekv_cli.video.reader import open_reader
from purekv_cli.video.scale import Scaler

LEAST_FRAMES = 120  # to decode in all: below, opening the file several times is not worth it
LEAST_CPUS = 4
MOST_THREADS = 4  # of one decoder
_HELD = 24  # pictures that a decoder and its threads keep

Group = list[int]  # indices of targets between two keyframes


def groups_of(info: VideoInfo, exact: list[int]) -> list[Group]:
    """Targets (ticks, ascending) by the keyframe that decoding starts from."""
    keyframes = [info.ticks(time) for time in info.keyframe_times]
    by_keyframe = groupby(range(len(exact)), key=lambda target: bisect_right(keyframes, exact[target]))
    return [list(group) for _, group in by_keyframe]


def workers_for(info: VideoInfo, exact: list[int], groups: list[Group]) -> int:
    """How many readers are worth their cost; 1: decode in sequence."""
    cpus = _cpus()
    if info.counted or cpus < LEAST_CPUS or frames_to_decode(info, exact, groups) < LEAST_FRAMES:
        return 1
    free = free_memory()
    room = cpus if free is None else free // 4 // (_HELD * info.width * info.height * 2)
    return max(1, min(cpus, len(groups), room))


def threads_for(workers: int) -> int:
    """Of every reader's decoder."""
    return max(1, min(MOST_THREADS, _cpus() // workers))


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decode_groups(
    info: VideoInfo,
    exact: list[int],
    groups: list[Group],
    pixels: NDArray[np.uint8],
    told: Callable[[int, int], None],
    workers: int,
) -> bool:
    """Fill `pixels` [N, H, W, 3], one frame a target; False when the clip is not in order, and nothing counts.

    Args:
        exact: ticks of the targets' frames, ascending.
        told: called on this thread with (frames done, index of the one just filled).
    """
    waiting, done = iter(groups), SimpleQueue[int | None]()
    lock, stop, threads = threading.Lock(), threading.Event(), threads_for(workers)

    def take() -> Iterator[Group]:
        while not stop.is_set():
            with lock:
                group = next(waiting, None)
            if group is None:
                return
            yield group

    def work() -> None:
        try:
            with open_reader(info, threads, frozenset(exact)) as reader:
                scaler = Scaler(pixels.shape[1], pixels.shape[2], info.rotation, threads=1)
                for group in take():
                    for target in group:
                        found = reader.last_at(exact[target])
                        if reader.damaged or found is None or found[0] != exact[target]:
                            stop.set()
                            return
                        if stop.is_set():
                            return
                        pixels[target] = scaler.rgb(found[1])
                        done.put(target)
        except (av.FFmpegError, UnreadableInput, OSError, MemoryError):
            stop.set()  # if it is the file's fault, the sequential path says so
        finally:
            done.put(None)

    with ThreadPoolExecutor(workers, "purekv-decode") as pool:
        futures = [pool.submit(work) for _ in range(workers)]
        try:
            count, running = 0, workers
            while running and count < len(exact):
                target = done.get()
                if target is None:
                    running -= 1
                    continue
                count += 1
                told(count, target)
        finally:
            stop.set()
        for future in futures:
            future.result()
    return count == len(exact)


def frames_to_decode(info: VideoInfo, exact: list[int], groups: list[Group]) -> int:
    """Frames from the keyframe of every group to its last target."""
    ticks = [info.ticks(time) for time in info.frame_times]
    keyframes = [info.ticks(time) for time in info.keyframe_times]
    total = 0
    for group in groups:
        start = keyframes[max(bisect_right(keyframes, exact[group[0]]) - 1, 0)]
        total += bisect_right(ticks, exact[group[-1]]) - bisect_left(ticks, start)
    return total
