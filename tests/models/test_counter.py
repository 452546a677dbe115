"""Tokens of a text before a model is loaded."""

from pathlib import Path

import pytest

from purekv_cli.models import registry
from purekv_cli.models.counter import counter


@pytest.mark.parametrize("text", ["", "[0:03-0:05] hello there\n[0:06-0:07] Grüße", "映画の字幕です"])
def test_it_counts_what_the_prompt_will_hold(text: str, bundle: Path) -> None:
    adapter = registry.load(registry.resolve(str(bundle)), "float32", "cpu")
    assert counter(bundle)(text) == adapter.tail(text).shape[1] - adapter.tail("").shape[1]


def test_without_files_it_estimates() -> None:
    assert [counter(None)(text) for text in ("", "four", "映画")] == [0, 2, 2]
