"""How much attention every key gets from the observed rows, recomputed from their log-sum-exp (CLIE).

sum:  A[g, j] = sum over heads h of group g, over observed rows i >= j, of exp(q_hi . k_gj * scaling - lse_hi)
max:  the same with the largest term in place of the sum
"""

from torch import Tensor

from purekv_cli.kernels.attention_mass import reference
from purekv_cli.kernels.attention_mass.reduce import Reduce

__all__ = ["Reduce", "attention_mass"]


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
    return reference.attention_mass(query, key, lse, scaling, rows, valid, reduce)
