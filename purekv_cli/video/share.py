"""Share frames out among the scenes of a clip: every scene is seen, longer ones more often.

A model that takes frames in pairs would blend two scenes in a pair, so whole groups are given out: one to each scene,
the next always to the scene with the most seconds per group so far (the divisor method that parliaments use). Where
there are more scenes than groups, those that differ least from the scene before are seen as one with it. Within a scene
its frames are the middles of equal parts, away from its edges, and carry their own true times.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from purekv_cli.video.info import Scene, VideoInfo


def share(info: VideoInfo, scenes: Sequence[Scene], frames: int, group: int = 1) -> tuple[tuple[float, ...], int]:
    """(Times of at most `frames` frames, ascending; how many scenes were joined to the one before)."""
    group = min(group, frames)
    groups = frames // group
    joined = _joined(scenes, groups)
    spans = [(info.frame_at(scene.start), info.frame_at(scene.last)) for scene in joined]
    room = [math.ceil((last - first + 1) / group) for first, last in spans]  # more would only repeat frames
    given = [1] * len(joined)
    queue = [(-(scene.end - scene.start) / 2, index) for index, scene in enumerate(joined)]
    heapq.heapify(queue)
    for _ in range(groups - len(joined)):
        while queue and given[queue[0][1]] >= room[queue[0][1]]:
            heapq.heappop(queue)
        if not queue:
            break
        index = queue[0][1]
        given[index] += 1
        heapq.heapreplace(queue, (-(joined[index].end - joined[index].start) / (given[index] + 1), index))
    times: list[float] = []
    for (first, last), count in zip(spans, given, strict=True):
        begin = info.frame_times[first]
        stop = info.frame_times[last + 1] if last + 1 < info.frame_count else info.duration
        parts = count * group
        for part in range(parts):
            index = info.frame_at(begin + (stop - begin) * (part + 0.5) / parts)
            times.append(info.frame_times[min(max(index, first), last)])
    return tuple(times), len(scenes) - len(joined)


def _joined(scenes: Sequence[Scene], most: int) -> list[Scene]:
    """At most so many scenes: the least changes are taken for none."""
    starts = sorted(range(1, len(scenes)), key=lambda index: (-scenes[index].change, index))[: most - 1]
    edges = [0, *sorted(starts), len(scenes)]
    return [
        replace(scenes[first], last=scenes[stop - 1].last, end=scenes[stop - 1].end) for first, stop in pairwise(edges)
    ]
