"""Compaction as one gather."""

from torch import Tensor


def compact(key: Tensor, value: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """See `purekv_cli.kernels.compact.compact`."""
    positions = positions.expand(key.shape[0], key.shape[1], -1)
    at = positions.clamp(min=0)[..., None]
    empty = (positions < 0)[..., None]
    kept = [kv.gather(2, at.expand(-1, -1, -1, kv.shape[-1])).masked_fill_(empty, 0.0) for kv in (key, value)]
    return kept[0], kept[1]
