"""The sparse pattern as it is told in words, one query and one key at a time."""

from itertools import pairwise

import torch

from purekv_cli.method.pattern import frames_read


def bounds(extent, size):
    """Tiles of nearly one size, none larger than `size`."""
    parts = max(1, -(-extent // size))
    edges = [part * extent // parts for part in range(parts + 1)]
    return list(pairwise(edges))


def told(layout, config, content=None, rows=None, tile_rows=128):
    """bool [N, N] in the prompt's order: whether token i reads token j.

    The rule is for single queries; but up to `tile_rows` of them, neighbours in the order (spatial tile, position), or
    in the text up to the last frame or after it, read together what any of them has to, and what any of the
    frames between those of two of them has to, and those frames; each only what precedes it.
    """
    frames, height, width = layout.grid
    place = {
        position: (n // (height * width), n // width % height, n % width)
        for n, position in enumerate(layout.video.tolist())
    }
    columns = set()
    if content is not None:
        best = sorted(range(len(content)), key=lambda n: (-float(content[n]), n))
        columns = {int(layout.video[n]) for n in best[: round(config.content * len(content))]}
    rectangles = (
        [(r, c) for r in bounds(height, config.tile[0]) for c in bounds(width, config.tile[1])] if place else []
    )
    allowed = frames_read(frames, config)

    def tile(position):
        _, row, column = place[position]
        inside = [top <= row < bottom and left <= column < right for (top, bottom), (left, right) in rectangles]
        return inside.index(True)

    def must_read(i, j, frames_between):
        if i not in place or j not in place or j in columns:
            return True
        return tile(i) == tile(j) and any(allowed[frame, place[j][0]] for frame in frames_between)

    def neighbours(i):
        if i in place:
            return tile(i)
        return -1 if i < layout.after or not place else len(rectangles)  # text

    wanted = range(layout.length) if rows is None else sorted(rows)
    ordered = sorted(wanted, key=lambda i: (neighbours(i), i))
    mask = torch.zeros(layout.length, layout.length, dtype=torch.bool)
    for group in {neighbours(i) for i in ordered}:
        members = [i for i in ordered if neighbours(i) == group]
        for first in range(0, len(members), tile_rows):
            together = members[first : first + tile_rows]
            span = {place[i][0] for i in together if i in place}
            frames_between = range(min(span), max(span) + 1) if span else ()
            own = {j for j in place if place[j][0] in frames_between}
            read = [
                j for j in range(layout.length) if j in own or any(must_read(i, j, frames_between) for i in together)
            ]
            for i in together:
                mask[i, [j for j in read if j <= i]] = True
    return mask
