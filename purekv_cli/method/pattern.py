"""ST-SpAttn, spatial-temporal sparse attention: which keys a query reads in prefill.

A video query reads the text before it, its own frame, its spatial tile with a halo in earlier frames (all of the
`recent` ones, older ones at a growing stride, and the first), and the content columns: the tokens that changed most
from the frame before, without which accuracy drops. Text reads everything. Tiles are patches of the frame, not strips
of its raster, so the tokens of each frame are permuted tile by tile; text stays where it is.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from purekv_cli.method.config import SparseConfig
from purekv_cli.method.layout import VideoLayout
from purekv_cli.method.runs import RunList

__all__ = ["RunList", "build", "content_change", "frames_read"]

_TEXT_ROWS = 128  # rows of a query tile of text


def build(layout: VideoLayout, config: SparseConfig, content: Tensor | None = None) -> RunList:
    """The pattern of one prompt, on the CPU.

    Args:
        layout: where the video lies; text between frames counts as text.
        config: tile, halo, frames and content share. Tiles are balanced: at most `tile` large, none a sliver.
        content: float [V], how much each video token changed (`content_change`); None: no content columns.
    """
    places = (layout.length, layout.video.cpu().numpy().tobytes(), layout.grid)
    share = round(config.content * len(layout.video))
    if content is None or share <= 0:
        return _without_content(places, config)
    changed = content.detach().float().cpu().nan_to_num(nan=float("-inf"))
    columns = torch.zeros(layout.length, dtype=torch.bool)
    columns[layout.video.cpu()[changed.sort(descending=True, stable=True).indices[:share]]] = True
    return _runs(_geometry(*places, config.tile, config.halo), config, columns)


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


def frames_read(frame: int, config: SparseConfig) -> list[int]:
    """Earlier frames whose tile a query of `frame` reads, ascending.

    At a distance d up to `recent`: all. Beyond, with the stride s = 2, 4, 8, ... that doubles whenever the distance
    does (the least power of two with recent * s >= d): where s divides d. `recent` = 0 reads none of them.
    """
    read = {0} if config.first_frame else set()
    for distance in range(1, frame + 1):
        if distance <= config.recent:
            read.add(frame - distance)
        elif config.recent:
            stride = 1 << (-(-distance // config.recent) - 1).bit_length()
            if distance % stride == 0:
                read.add(frame - distance)
    return sorted(read - {frame})


@dataclass(frozen=True, slots=True)
class _Geometry:
    """What does not depend on the frames' content."""

    order: Tensor  # int64 [N]
    text: Tensor  # bool [N], rows that are text
    frame_start: Tensor  # int64 [T], first row of every frame's tokens, tile after tile
    frame_stop: Tensor  # int64 [T], end of the frame, text inside it included
    tile_size: Tensor  # int64 [tiles of a frame], tokens of each
    near: Tensor  # bool [tiles of a frame, H * W], tile and halo, over the frame's rows


@lru_cache(maxsize=16)
def _geometry(length: int, video: bytes, grid: tuple[int, int, int], tile: tuple[int, int], halo: int) -> _Geometry:
    positions = torch.frombuffer(bytearray(video), dtype=torch.int64) if video else torch.zeros(0, dtype=torch.int64)
    frames, height, width = grid if len(positions) else (0, 0, 0)
    if frames * height * width != len(positions):
        raise ValueError(f"a grid of {grid} does not hold {len(positions)} video tokens")
    row_bounds, column_bounds = _balanced(height, tile[0]), _balanced(width, tile[1])
    row, column = torch.arange(height)[:, None], torch.arange(width)
    own, near = [], []
    for top, bottom in pairwise(row_bounds):
        for left, right in pairwise(column_bounds):
            own.append(((row >= top) & (row < bottom) & (column >= left) & (column < right)).flatten())
            rows = (row >= top - halo) & (row < bottom + halo)
            near.append((rows & (column >= left - halo) & (column < right + halo)).flatten())
    empty = torch.zeros(0, height * width, dtype=torch.bool)
    own_cells, near_cells = (torch.stack(cells) if cells else empty for cells in (own, near))
    cells = own_cells.nonzero()[:, 1]  # raster place of the frame's rows, tile after tile

    order, text = torch.arange(length), torch.ones(length, dtype=torch.bool)
    by_frame = positions.view(frames, height * width)
    start, stop = by_frame[:, :1].flatten(), by_frame[:, -1:].flatten() + 1
    for first, last, tokens in zip(start.tolist(), stop.tolist(), by_frame, strict=True):
        inside = torch.ones(last - first, dtype=torch.bool)
        inside[tokens - first] = False
        order[first:last] = torch.cat([tokens[cells], inside.nonzero()[:, 0] + first])
        text[first : first + len(tokens)] = False
    return _Geometry(order, text, start, stop, own_cells.sum(-1), near_cells[:, cells])


def _balanced(extent: int, size: int) -> list[int]:
    parts = max(1, -(-extent // size))
    return [part * extent // parts for part in range(parts + 1)] if extent else [0]


@lru_cache(maxsize=4)
def _without_content(places: tuple[int, bytes, tuple[int, int, int]], config: SparseConfig) -> RunList:
    return _runs(_geometry(*places, config.tile, config.halo), config, torch.zeros(places[0], dtype=torch.bool))


def _runs(geometry: _Geometry, config: SparseConfig, content: Tensor) -> RunList:
    """Tile by tile in row order: text up to a frame, the frame's tiles, the next text."""
    length, cells = len(geometry.order), geometry.near.shape[1]
    content = content[geometry.order]
    rows: list[Tensor] = []  # tile sizes
    counts: list[Tensor] = []  # runs per tile
    starts: list[Tensor] = []
    lengths: list[Tensor] = []

    def add_text(first: int, last: int) -> None:
        for begin in range(first, last, _TEXT_ROWS):
            end = min(begin + _TEXT_ROWS, last)
            rows.append(torch.tensor([end - begin]))
            counts.append(torch.tensor([1]))
            starts.append(torch.tensor([0]))
            lengths.append(torch.tensor([end]))

    done = 0
    for frame, (start, stop) in enumerate(
        zip(geometry.frame_start.tolist(), geometry.frame_stop.tolist(), strict=True)
    ):
        add_text(done, start)
        seen = (geometry.text[:stop] | content[:stop]).repeat(len(geometry.tile_size), 1)
        earlier = geometry.frame_start[frames_read(frame, config)]
        columns = (earlier[:, None] + torch.arange(cells)).flatten()
        seen[:, columns] |= geometry.near.repeat(1, len(earlier))
        seen[:, start : start + cells] = True
        begins, ends = seen.clone(), seen.clone()
        begins[:, 1:] &= ~seen[:, :-1]
        ends[:, :-1] &= ~seen[:, 1:]
        first = begins.nonzero()[:, 1]
        rows.append(geometry.tile_size)
        counts.append(begins.sum(-1))
        starts.append(first)
        lengths.append(ends.nonzero()[:, 1] - first + 1)
        done = start + cells
    add_text(done, length)
    return RunList(
        order=geometry.order,
        row_start=_pointers(rows),
        run_ptr=_pointers(counts),
        run_start=torch.cat(starts),
        run_length=torch.cat(lengths),
    )


def _pointers(sizes: list[Tensor]) -> Tensor:
    return F.pad(torch.cat(sizes).cumsum(0), (1, 0))
