"""Active pruning's last step: copy the kept entries to tensors of their own, so that the full ones can be freed."""

from torch import Tensor

from purekv_cli.kernels.compact import reference

__all__ = ["compact"]


def compact(key: Tensor, value: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The entries at `positions`, in new contiguous tensors.

    Args:
        key, value: [B, Hkv, N, D].
        positions: int64 [B or 1, Hkv or 1, P]; -1 where a row keeps fewer than P.

    Returns:
        key, value [B, Hkv, P, D], zero where the position is -1.
    """
    return reference.compact(key, value, positions)
