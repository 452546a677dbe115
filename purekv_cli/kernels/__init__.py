"""The operations that cost time, each with a plain reference twin, and which of their kernels a run may use."""

from typing import Literal

Allowed = Literal["auto", "reference"]

_allowed: Allowed = "auto"


def allow(kernels: Allowed) -> None:
    """From now on "auto" runs the fastest kernel that proved right here, "reference" only the plain one (slow)."""
    global _allowed
    _allowed = kernels


def allowed() -> Allowed:
    """What `allow` said last."""
    return _allowed
