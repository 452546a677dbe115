"""Decode the frames of a plan, and as few others as possible.

Long clips are decoded by groups of pictures, side by side (`parallel.py`). Else, and wherever a clip turns out to be
damaged, targets are taken in ascending order from a forward cursor (`reader.py`). For each one the last frame at or
before it is kept (never simply the first one after a seek), scaled inside the decoder's own colour conversion, and
turned upright. What a damaged clip no longer holds is reported, not made up.
"""

import time as clock
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from purekv_cli.errors import OutOfResources, UnreadableInput
from purekv_cli.memory import free_memory
from purekv_cli.video.frames import Frames
from purekv_cli.video.images import READ_ERRORS, list_images, read_image
from purekv_cli.video.info import VideoInfo, read_of
from purekv_cli.video.parallel import decode_groups, groups_of, workers_for
from purekv_cli.video.reader import FrameReader, open_reader, reopened
from purekv_cli.video.sample import SamplePlan
from purekv_cli.video.scale import Scaler

OnFrame = Callable[[int, int], None]
Told = Callable[[int, int], None]  # (targets done, slot of `pixels` just filled)
OnPixels = Callable[[NDArray[np.uint8], int, int], None]


def decode(
    info: VideoInfo,
    plan: SamplePlan,
    size: tuple[int, int] | None = None,
    on_frame: OnFrame | None = None,
    threads: int | None = None,
    on_pixels: OnPixels | None = None,
) -> Frames:
    """The frames on show at the plan's times, resized (bicubic) to `size` (height, width as shown) if given.

    `on_frame(done, total)` is called after each. `threads` None lets FFmpeg choose; give 1 to each of many workers.
    `on_pixels(pixels, first, stop)` is called when frames first..stop-1 of `pixels` [N, H, W, 3] will not change any
    more, so that work on them can begin before the last one is there; N counts targets, and fewer frames may come. They
    come in any order; a damaged clip may begin anew, which frame 0 coming a second time tells.
    Targets beyond what a damaged clip still gives are dropped, and `Frames.damage` says so.
    Errors: UnreadableInput when nothing can be read, OutOfResources when the frames cannot fit into memory.
    """
    began = clock.perf_counter()
    height, width = size or (info.height, info.width)
    _check_memory(len(plan.times), height, width)
    pixels = np.empty((len(plan.times), height, width, 3), np.uint8)

    def told(done: int, slot: int) -> None:
        if on_pixels is not None:
            on_pixels(pixels, slot, slot + 1)
        if on_frame is not None:
            on_frame(done, len(plan.times))

    if info.kind == "video":
        kept, times, damage = _decode_video(info, plan, pixels, told, threads)
    else:
        kept, times, damage = _decode_images(info, plan, pixels, told)
    if not kept:
        raise UnreadableInput(
            f"no frame of {info.path.name} could be decoded at the times asked for",
            "The file is damaged there: choose another range, or convert it again from its source.",
        )
    shown = np.asarray(times, np.float64)
    return Frames(
        pixels=pixels[: len(kept)],
        times=shown,
        targets=np.maximum(np.asarray([plan.times[i] for i in kept], np.float64), shown),
        seconds_per_frame=plan.seconds_per_frame,
        decode_seconds=clock.perf_counter() - began,
        damage=damage,
        even=plan.even,
    )


def _decode_video(
    info: VideoInfo, plan: SamplePlan, pixels: NDArray[np.uint8], told: Told, threads: int | None
) -> tuple[list[int], list[float], str | None]:
    """Fill `pixels` from the front; returns the targets kept (indices), their frames' times, and the damage."""
    indices = [info.frame_at(time) for time in plan.times]
    exact = [info.ticks(info.frame_times[index]) for index in indices]
    if threads is None:
        groups = groups_of(info, exact)
        workers = workers_for(info, exact, groups)
        if workers > 1 and decode_groups(info, exact, groups, pixels, told, workers):
            return list(range(len(exact))), [_seconds(info, ticks) for ticks in exact], info.shortfall
    scaler = Scaler(pixels.shape[1], pixels.shape[2], info.rotation)
    kept: list[int] = []
    times: list[float] = []
    stand_ins = 0
    with ExitStack() as stack:
        reader = stack.enter_context(open_reader(info, threads, frozenset(exact)))
        previous = -1
        for target, (index, wanted) in enumerate(zip(indices, exact, strict=True)):
            found = reader.last_at(wanted)
            if reader.sparing and (reader.damaged or found is None or found[0] != wanted):
                # What stands in for a missing frame may be one that was skipped: read all from here on.
                reader = stack.enter_context(reopened(reader, info, threads))
                found = reader.last_at(wanted)
            if reader.out_of_reach(index) and reader.threads != 1:
                # With several threads an error at the end takes the frames queued behind it along: look with one.
                reader = stack.enter_context(reopened(reader, info, 1))
                found = reader.last_at(wanted)
            if reader.out_of_reach(index):
                break  # an older frame would be a lie about this time
            if found is None:
                continue
            ticks, frame = found
            # One frame less is no damage: some streams carry packets that are never shown, or fields apart.
            stand_ins += index > 1 and ticks < info.ticks(info.frame_times[index - 1])
            slot = len(kept)
            if ticks == previous:
                pixels[slot] = pixels[slot - 1]
            else:
                pixels[slot] = scaler.rgb(frame)
            previous = ticks
            kept.append(target)
            times.append(_seconds(info, ticks))
            told(target + 1, slot)
    return kept, times, _video_damage(info, reader, plan, kept, stand_ins)


def _seconds(info: VideoInfo, ticks: int) -> float:
    return ticks * info.time_base.numerator / info.time_base.denominator


def _video_damage(
    info: VideoInfo, reader: FrameReader, plan: SamplePlan, kept: list[int], stand_ins: int
) -> str | None:
    parts = [info.shortfall]
    if kept and kept[-1] + 1 < len(plan.times):
        end = _seconds(info, reader.furthest)
        following = info.frame_at(end) + 1
        end = info.frame_times[following] if following < info.frame_count else info.duration
        whole = max(info.duration, info.stated_duration or 0.0)
        parts[0] = read_of(end, whole) or f"read {end:.2f} of {whole:.2f} s"
    if kept and kept[0] > 0:
        parts.append(f"nothing readable before {plan.times[kept[0]]:.1f} s")
    if reader.damaged:
        parts.append(f"skipped {len(reader.damaged)} damaged packet{'s' * (len(reader.damaged) > 1)}")
    if stand_ins:
        parts.append(f"{stand_ins} of {len(kept)} frames missing, earlier ones stand in")
    return "; ".join(part for part in parts if part) or None


def _decode_images(
    info: VideoInfo, plan: SamplePlan, pixels: NDArray[np.uint8], told: Told
) -> tuple[list[int], list[float], str | None]:
    """As `_decode_video`, for images: an unreadable one is left out."""
    files: list[Path] = list_images(info.path) if info.kind == "images" else [info.path]
    kept: list[int] = []
    times: list[float] = []
    unreadable: set[Path] = set()
    for target, time in enumerate(plan.times):
        index = info.frame_at(time)
        file = files[min(index, len(files) - 1)]
        try:
            pixels[len(kept)] = read_image(file, (pixels.shape[1], pixels.shape[2]))
        except READ_ERRORS:
            unreadable.add(file)
            continue
        kept.append(target)
        times.append(info.frame_times[index])
        told(target + 1, len(kept) - 1)
    many = "s" * (len(unreadable) > 1)
    return kept, times, f"skipped {len(unreadable)} unreadable image{many}" if unreadable else None


def _check_memory(count: int, height: int, width: int) -> None:
    need, free = count * height * width * 3, free_memory()
    if free is not None and need > free:
        raise OutOfResources(
            f"{count} frames of {width} x {height} need {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free",
            "Ask for fewer frames (--max-frames) or smaller ones (--max-pixels).",
        )
