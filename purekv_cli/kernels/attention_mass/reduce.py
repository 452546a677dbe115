"""How the attention of many rows becomes one number per key."""

from typing import Literal

Reduce = Literal["sum", "max"]
