"""purekv: ask open video language models about your own videos, with a pruned KV cache and sparse prefill.

Public API (imported lazily, so that `import purekv_cli` costs nothing): `attach` prunes the cache of a transformers
model inside a `with` block; `Engine` is the loop behind the command line.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Engine", "MethodConfig", "__version__", "attach"]

if TYPE_CHECKING:
    from purekv_cli.method.config import MethodConfig
    from purekv_cli.runtime.attach import attach
    from purekv_cli.runtime.engine import Engine

_HOMES = {"attach": "runtime.attach", "Engine": "runtime.engine", "MethodConfig": "method.config"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
