"""The gate before any speed-up: what its checks are made of. A red check silences the ratios of the rows it covers."""

from collections.abc import Callable

import torch
from torch import Tensor

from purekv_cli.bench.result import Check

PRUNED = frozenset({"whole", "propagated"})
OURS = PRUNED | {"dense"}
FILE = frozenset({"file"})  # what begins at a file: the tower too


def distance(got: Tensor | None, true: Tensor | None) -> float:
    """The largest difference, relative to the largest true value; NaN counts as infinite."""
    if got is None or true is None:
        raise ValueError("the kernel returned nothing")
    gap = float((got.float() - true.float()).abs().max() / true.float().abs().max().clamp(min=1e-12))
    return gap if gap == gap else float("inf")


def held(name: str, covers: frozenset[str], within: float, compare: Callable[[], float]) -> Check:
    """One check; whatever a broken kernel raises makes it red."""
    try:
        with torch.inference_mode():
            gap = compare()
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        return Check(name, False, f"{type(error).__name__}: {first}", covers)
    detail = "the same" if within == 0 and gap == 0 else f"relative difference {gap:.1e}, allowed {within:.1e}"
    return Check(name, gap <= within, detail, covers)
