"""Prefill attention that reads only the keys of a run list: exactly dense attention under its mask, less of it."""

from torch import Tensor

from purekv_cli.kernels.sparse_prefill import backends
from purekv_cli.kernels.sparse_prefill.backends import explain
from purekv_cli.method.runs import RunList

__all__ = ["explain", "sparse_prefill"]


def sparse_prefill(
    query: Tensor, key: Tensor, value: Tensor, runs: RunList, scaling: float, need_lse: bool = False
) -> tuple[Tensor, Tensor | None]:
    """softmax over the keys that `runs` lets each query read.

    Args:
        query: [B, Hq, n, D] in the prompt's order: row i is the token at position runs.rows[i], so the whole prompt
            unless the list was built for some rows only.
        key, value: [B, Hkv, N, D] in the order of keys: row j is the token at position runs.key_order[j]. Where the
            TMA loads them nothing is copied if they lie in memory as [B, N, Hkv, D] or [B, Hkv, N, D].
        runs: the pattern, best on the device of the others.
        scaling: of the dot product.
        need_lse: whether to return the natural-log LSE of the keys that were read.

    Returns:
        out [B, Hq, n, D] in the query's order, laid out in memory as [B, n, Hq, D], so that
        `out.transpose(1, 2).reshape(B, n, -1)` copies nothing; and float32 [B, Hq, n] or None.
    """
    return backends.choose(query, key).run(query, key, value, runs, scaling, need_lse)
