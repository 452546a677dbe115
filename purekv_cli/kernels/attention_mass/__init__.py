"""How much attention every key gets from the observed rows, recomputed from their log-sum-exp (CLIE).

sum:  A[g, j] = sum over heads h of group g, over observed rows i >= j, of exp(q_hi . k_gj * scaling - lse_hi)
max:  the same with the largest term in place of the sum
"""

from torch import Tensor

from purekv_cli.kernels.attention_mass.backends import choose, explain
from purekv_cli.kernels.attention_mass.reduce import Reduce

__all__ = ["Reduce", "attention_mass", "explain", "row_mass"]


def attention_mass(
    query: Tensor,
    key: Tensor,
    lse: Tensor | None,
    scaling: float,
    rows: Tensor,
    valid: Tensor | None = None,
    reduce: Reduce = "sum",
) -> Tensor:
    """Attention mass of every key, float32 [B, Hkv, M].

    The work is proportional to the number of observed rows: the question's rows cost next to nothing.

    Args:
        query: [B, Hq, N, D], rotated; the last N positions of the key list.
        key: [B, Hkv, M, D], rotated, M >= N.
        lse: natural-log LSE of the queries, [B, Hq, N]; None: computed on the spot from the observed rows' scores.
        scaling: of the dot product, 1 / sqrt(D) as a rule.
        rows: bool [B, N], the observed queries.
        valid: bool [B, M], False where a prompt is padded: such queries do not vote and such keys get nothing.
        reduce: "sum" or "max" over rows and the heads of a group.
    """
    return choose(query, key, "all").attention_mass(query, key, lse, scaling, rows, valid, reduce)


def row_mass(
    query: Tensor,
    key: Tensor,
    scaling: float,
    row_positions: Tensor,
    key_positions: Tensor | None = None,
    *,
    lse: Tensor | None = None,
    reduce: Reduce = "max",
    pool_heads: bool = False,
    running: Tensor | None = None,
) -> Tensor:
    """Attention mass of every prompt position from a few rows, float32 [B, Hkv, M] or, pooled, [B, 1, M].

    For the fast prefill: only the observed rows come in, keys may lie in any order, nothing waits for the device, and
    it can be captured in a CUDA graph (after a first call outside of it, in which the kernel has to prove itself).
    A row sees the keys whose position is no later than its own.

    Args:
        query: [B, Hq, R, D], rotated: the observed rows alone. Any strides as long as D is contiguous.
        key: [B, Hkv, M, D], rotated, in any order and with any strides.
        scaling: of the dot product, 1 / sqrt(D) as a rule.
        row_positions: int64 [R], prompt position of every row.
        key_positions: int64 or int32 [M], prompt position of every key, a permutation of 0..M-1 (not checked: that
            would wait for the device); None: keys lie in the prompt's order.
        lse: natural-log LSE of the rows, [B, Hq, R]; None: computed in a pass of its own. Saves half of the time.
        reduce: "max" or "sum" over rows and the heads of a group.
        pool_heads: reduce over all heads: one set of entries for all of them.
        running: float32 of the result's shape, the largest mass of earlier layers; the result is the larger one.

    Returns:
        A new tensor, indexed by prompt position.
    """
    return choose(query, key, "few").row_mass(
        query, key, scaling, row_positions, key_positions, lse, reduce, pool_heads=pool_heads, running=running
    )
