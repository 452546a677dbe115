"""ST-SpAttn, spatial-temporal sparse attention: which keys a query reads in prefill.

A video query reads the text before it, its own frame, its spatial tile in earlier frames, and the content columns: the
tokens that changed most from the frame before, without which accuracy drops. Text reads everything.

GPUs want few, long runs of keys. So keys are ordered by region: first what every later query reads (text and content
columns), then tile by tile each one's tokens of all frames, then the text after the video; by position inside each.
All that a query reads of earlier frames is two runs then, and its own frame one short run per other tile. Queries are
ordered by tile too, and cut into blocks of 128 rows that may straddle frames: such a block reads what any of its rows
needs, and all frames from its first row's to its last row's: a little more than the rule asks for.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from purekv_cli.method.config import SparseConfig
from purekv_cli.method.layout import VideoLayout
from purekv_cli.method.runs import TILE_ROWS, RunList

__all__ = ["ROWS", "RunList", "build", "content_change", "content_of", "frames_read"]

ROWS = TILE_ROWS  # of a query tile


def build(
    layout: VideoLayout,
    config: SparseConfig,
    content: Tensor | None = None,
    *,
    rows: Tensor | None = None,
    only: Tensor | None = None,
) -> RunList:
    """The pattern of one prompt, on the device of `content` (the CPU without).

    Args:
        layout: where the video lies; text between frames counts as text.
        config: tile, frames and content share. Tiles are balanced: at most `tile` large, none a sliver.
        content: float [V], how much each video token changed (`content_change`); None: no content columns.
        rows: bool [N] or int64 positions, the only queries wanted; None: all. They fill tiles of their own, so the
            pattern may read a little more or less; the order of keys is the same.
        only: int64 [n] ascending positions, the only tokens there are, as queries and as keys: the list is that of a
            prompt of n tokens, numbered 0 to n - 1.
    """
    device = torch.device("cpu") if content is None else content.device
    at = _places(layout.length, layout.video.cpu().numpy().tobytes(), layout.grid, config.tile, ROWS, device)
    share = round(config.content * len(layout.video))
    region = at.region
    if content is not None and share > 0:
        changed = content.detach().float().nan_to_num(nan=float("-inf"))
        region = region.index_fill(0, at.video[changed.sort(descending=True, stable=True).indices[:share]], 0)
    there = torch.arange(at.length, device=device) if only is None else only.to(device)
    placed, key_order = (region[there] * at.length + there).sort()
    wanted = rows if only is None else there
    queries = at.queries if wanted is None else _queries(at, wanted.to(device), ROWS)
    runs = _strided(at, queries, placed, config) if config.recent is not None else _all_frames(at, queries, placed)
    order = queries.order if only is None else queries.row
    return RunList(key_order, order, queries.row, queries.start, *runs, queries.most_past, queries.most_near)


def content_change(embeddings: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """1 - cosine of every video token to the same place a frame before, float32 [V].

    The first frame has no frame before it: it gets the largest change of the others, so that it counts as content.

    Args:
        embeddings: [V, C], video tokens as they enter layer 0, frame-major.
        grid: (T, H, W).
    """
    frames = embeddings.float().view(grid[0], -1, embeddings.shape[-1])
    change = torch.zeros(frames.shape[:2], device=embeddings.device)
    if grid[0] > 1:
        change[1:] = 1 - F.cosine_similarity(frames[1:], frames[:-1], dim=-1)
        change[0] = change[1:].max()
    return change.flatten()


def content_of(embeddings: Tensor, layout: VideoLayout) -> Tensor:
    """`content_change` of all videos of a prompt, each by itself, float32 [V]."""
    sizes = [steps * rows * columns for steps, rows, columns in layout.grids]
    parts = zip(embeddings.split(sizes), layout.grids, strict=True)
    return torch.cat([content_change(part, grid) for part, grid in parts])


def frames_read(frames: int, config: SparseConfig, device: torch.device | str = "cpu") -> Tensor:
    """bool [T, T]: whether a query of frame i reads its tile in frame j.

    Its own frame and, `recent` being None, all earlier ones. Otherwise at a distance d up to `recent` all; beyond, with
    the stride s = 2, 4, 8, ... that doubles whenever the distance does (the least power of two with recent * s >= d),
    where s divides d. `recent` = 0 reads none of them. With `first_frame` that one is read by all.
    """
    index = torch.arange(frames, device=device)
    distance = index[:, None] - index
    if config.recent is None:
        return distance >= 0
    read = distance == 0
    if config.recent > 0:
        stride, reach = torch.ones_like(distance), config.recent
        while reach < frames:
            stride += (distance > reach) * stride  # a power of two
            reach *= 2
        read |= (distance > 0) & (distance % stride == 0)
    if config.first_frame:
        read[:, :1] = True
    return read


@dataclass(frozen=True, slots=True)
class _Queries:
    """Queries in tiles."""

    order: Tensor  # int64 [n], prompt positions
    row: Tensor  # int64 [n], their rows in the prompt's order
    start: Tensor  # int64 [R + 1], first of every tile
    region: Tensor  # int64 [R], the region whose queries the tile holds
    most_past: int | None = None  # of a RunList, where the positions are known on the CPU
    most_near: int | None = None

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """int64 [R] each: the position of every tile's first and last query."""
        return self.order[self.start[:-1]], self.order[self.start[1:] - 1]


@dataclass(frozen=True, slots=True)
class _Places:
    """What does not depend on the frames' content."""

    length: int  # N
    regions: int  # S + 2: text up to the video's end, S tiles, text after it
    video: Tensor  # int64 [V]
    region: Tensor  # int64 [N], of every prompt position
    own: Tensor  # int64 [N], first position of the frame that a video token belongs to; 0 for text
    frame: Tensor  # int64 [N], index of that frame; 0 for text
    first: Tensor  # int64 [T], first position of every frame
    stop: Tensor  # int64 [T], position after its last token
    queries: _Queries  # all of them


@lru_cache(maxsize=16)
def _places(
    length: int, video: bytes, grid: tuple[int, int, int], tile: tuple[int, int], tile_rows: int, device: torch.device
) -> _Places:
    positions = torch.frombuffer(bytearray(video), dtype=torch.int64) if video else torch.zeros(0, dtype=torch.int64)
    frames, height, width = grid if len(positions) else (0, 0, 0)
    if frames * height * width != len(positions):
        raise ValueError(f"a grid of {grid} does not hold {len(positions)} video tokens")
    row, column = _parts(height, tile[0]), _parts(width, tile[1])
    cell = (row[:, None] * (int(column.max()) + 1 if width else 0) + column).flatten()  # [H * W], tile of every place
    tiles = int(cell.max()) + 1 if len(cell) else 0
    by_frame = positions.view(frames, height * width)
    first, stop = by_frame[:, :1].flatten(), by_frame[:, -1:].flatten() + 1

    region, own, frame = (torch.zeros(length, dtype=torch.int64) for _ in range(3))
    if frames:
        region[int(stop[-1]) :] = tiles + 1
    region[positions] = 1 + cell.repeat(frames)
    own[positions] = first.repeat_interleave(height * width)
    frame[positions] = torch.arange(frames).repeat_interleave(height * width)
    order = region.sort(stable=True).indices
    queries = _tiled(order, order, torch.bincount(region, minlength=tiles + 2), tile_rows)
    positions, region, own, frame, first, stop = (
        tensor.to(device) for tensor in (positions, region, own, frame, first, stop)
    )
    earliest, latest = queries.ends
    order, row, start, at = (x.to(device) for x in (queries.order, queries.row, queries.start, queries.region))
    on_device = _Queries(order, row, start, at, int((earliest + 1).sum()), int((latest - earliest).sum()))
    return _Places(length, tiles + 2, positions, region, own, frame, first, stop, on_device)


def _parts(extent: int, size: int) -> Tensor:
    """int64 [extent], which of its balanced parts every place belongs to."""
    parts = max(1, -(-extent // size))
    edges = [part * extent // parts for part in range(parts + 1)]
    return torch.arange(parts).repeat_interleave(torch.tensor([b - a for a, b in pairwise(edges)]))


def _queries(at: _Places, rows: Tensor, tile_rows: int) -> _Queries:
    """The wanted ones only."""
    positions = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows.long().sort().values
    region = at.region[positions]
    row = region.sort(stable=True).indices
    return _tiled(positions[row], row, torch.bincount(region, minlength=at.regions), tile_rows)


def _tiled(order: Tensor, row: Tensor, counts: Tensor, tile_rows: int) -> _Queries:
    """Cut every region's queries into tiles of so many rows, the last one shorter."""
    device, counts = counts.device, counts.cpu()
    parts = (counts + tile_rows - 1) // tile_rows
    region = torch.arange(len(counts)).repeat_interleave(parts)
    within = torch.arange(len(region)) - (parts.cumsum(0) - parts)[region]
    start = F.pad((counts.cumsum(0) - counts)[region] + tile_rows * within, (0, 1), value=len(order))
    return _Queries(order, row, start.to(device), region.to(device))


_Runs = tuple[Tensor, Tensor, Tensor, Tensor]  # run_ptr, run_start, run_length, run_past of a RunList


def _all_frames(at: _Places, queries: _Queries, placed: Tensor) -> _Runs:
    """One run per tile and region, many of them empty: a count that is known without looking at the data."""
    first, last = queries.ends
    lower = at.own[first][:, None].repeat(1, at.regions)
    lower[:, 0] = 0
    lower.scatter_(1, queries.region[:, None], 0)  # the own tile: from the first frame on
    base = torch.arange(at.regions, device=placed.device) * at.length
    start, past, end = (torch.searchsorted(placed, base + least) for least in (lower, _after(first), _after(last)))
    pointers = torch.arange(len(first) + 1, device=placed.device) * at.regions
    return pointers, start.flatten(), (end - start).flatten(), (past - start).flatten()


def _strided(at: _Places, queries: _Queries, placed: Tensor, config: SparseConfig) -> _Runs:
    """Every run of consecutive frames of the own tile is a run of its own, instead of one for all."""
    first, last = queries.ends
    frames, (ptr, start, length, past) = len(at.first), _all_frames(at, queries, placed)
    tile = torch.arange(len(first), device=placed.device)
    is_video = (queries.region > 0) & (queries.region < at.regions - 1)
    others = torch.ones(len(first), at.regions, dtype=torch.bool, device=placed.device)
    others[tile[is_video], queries.region[is_video]] = False

    counted = F.pad(frames_read(frames, config, placed.device).int().cumsum(0), (0, 0, 1, 0))
    needed = (counted[at.frame[last] + 1] - counted[at.frame[first]] > 0) & is_video[:, None]
    edges = F.pad(needed.int(), (1, 1)).diff()
    owner, begin = (edges > 0).nonzero().unbind(1)
    stop = at.stop[(edges < 0).nonzero()[:, 1] - 1]
    base = queries.region[owner] * at.length
    own_start = torch.searchsorted(placed, base + at.first[begin])
    own_end = torch.searchsorted(placed, base + torch.minimum(stop, last[owner] + 1))
    own_past = torch.searchsorted(placed, base + torch.minimum(stop, first[owner] + 1))

    keep = others.flatten()
    of_tile = torch.cat([tile.repeat_interleave(ptr.diff())[keep], owner])
    starts = torch.cat([start[keep], own_start])
    order = (of_tile * (at.length + 1) + starts).sort(stable=True).indices
    lengths = torch.cat([length[keep], own_end - own_start])
    pasts = torch.cat([past[keep], (own_past - own_start).clamp(min=0)])
    pointers = F.pad(torch.bincount(of_tile, minlength=len(first)).cumsum(0), (1, 0))
    return pointers, starts[order], lengths[order], pasts[order]


def _after(position: Tensor) -> Tensor:
    return position[:, None] + 1
