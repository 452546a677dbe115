"""Prefill attention that reads only the keys of a run list: exactly dense attention under its mask, less of it."""

from torch import Tensor

from purekv_cli.kernels.sparse_prefill import reference
from purekv_cli.method.runs import RunList

__all__ = ["sparse_prefill"]


def sparse_prefill(
    query: Tensor, key: Tensor, value: Tensor, runs: RunList, scaling: float, need_lse: bool = False
) -> tuple[Tensor, Tensor | None]:
    """softmax over the keys that `runs` lets each query read.

    Args:
        query: [B, Hq, N, D]; key, value: [B, Hkv, N, D]; all in the permuted order of `runs`.
        runs: the pattern; best on the CPU, where its tiles are planned.
        scaling: of the dot product.
        need_lse: whether to return the natural-log LSE of the keys that were read.

    Returns:
        out [B, Hq, N, D] in permuted order, and float32 [B, Hq, N] or None.
    """
    return reference.sparse_prefill(query, key, value, runs, scaling, need_lse)
