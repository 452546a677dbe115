"""Active pruning's last step: copy the kept entries to tensors of their own, so that the full ones can be freed."""

from torch import Tensor

from purekv_cli.kernels.compact.backends import choose, explain

__all__ = ["compact", "explain"]


def compact(key: Tensor, value: Tensor, positions: Tensor, *, source: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The entries at `positions`, in new contiguous tensors.

    Args:
        key, value: [B, Hkv, N, D], any strides.
        positions: int64 or int32 [B or 1, Hkv or 1, P]; -1 where a row keeps fewer than P.
        source: int64 or int32, the row in key and value of every prompt position, where they do not lie in the
            prompt's order; None: they do.

    Returns:
        key, value [B, Hkv, P, D], zero where the position is -1.
    """
    return choose(key).compact(key, value, positions, source)
