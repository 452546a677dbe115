"""Compaction as one gather."""

from torch import Tensor


def compact(key: Tensor, value: Tensor, positions: Tensor, source: Tensor | None) -> tuple[Tensor, Tensor]:
    """See `purekv_cli.kernels.compact.compact`."""
    positions = positions.expand(key.shape[0], key.shape[1], -1)
    at, empty = positions.clamp(min=0).long(), (positions < 0)[..., None]
    if source is not None:
        at = source.long()[at]
    kept = [
        kv.gather(2, at[..., None].expand(-1, -1, -1, kv.shape[-1])).masked_fill_(empty, 0.0) for kv in (key, value)
    ]
    return kept[0], kept[1]
