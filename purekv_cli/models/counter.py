"""How many tokens a text is, before any weight is loaded: by the checkpoint's tokenizer where its files are here."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

BYTES_A_TOKEN = 3  # of a model that is not fetched yet: English has 4, most other scripts 2 to 3


def counter(folder: Path | None) -> Callable[[str], int]:
    """Counts the tokens of plain text.

    Args:
        folder: the checkpoint's; None: it must be fetched first, and what is counted is an estimate.
    """
    if folder is None:
        return lambda text: -(-len(text.encode()) // BYTES_A_TOKEN)
    return _counter(folder)


@cache
def _counter(folder: Path) -> Callable[[str], int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))
