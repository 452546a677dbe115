"""The kept share over time. A frame stands from its own time to the next frame's, so any bins can be filled."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from purekv_cli.explain.kept import Kept


@dataclass(frozen=True, slots=True)
class Timeline:
    """B bins one after the other."""

    edges: NDArray[np.float64]  # [B + 1], s
    shares: NDArray[np.float64]  # [B], 0 to 1: mean over the bin's time

    @property
    def peak(self) -> tuple[float, float]:
        """(s, share): where the bin with the largest share begins."""
        most = int(self.shares.argmax())
        return float(self.edges[most]), float(self.shares[most])


def per_second(kept: Kept, layer: int | None = None) -> Timeline:
    """Bins of a second from the first frame on; the last one may be shorter."""
    start = float(kept.times[0])
    edges = start + np.arange(math.ceil(kept.end - start - 1e-6), dtype=np.float64)
    return _binned(kept, layer, np.append(edges, kept.end))


def in_bins(kept: Kept, count: int, layer: int | None = None) -> Timeline:
    """That many bins of equal length."""
    return _binned(kept, layer, np.linspace(float(kept.times[0]), kept.end, count + 1))


def _binned(kept: Kept, layer: int | None, edges: NDArray[np.float64]) -> Timeline:
    of_frame = kept.patches(layer).mean((1, 2))[kept.steps]
    bounds = np.append(kept.times, kept.end)
    mass = np.concatenate([[0.0], np.cumsum(of_frame * np.diff(bounds))])  # the share's integral up to each bound
    return Timeline(edges, np.diff(np.interp(edges, bounds, mass)) / np.diff(edges))
