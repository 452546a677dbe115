"""Text before a question (subtitles): it stays in the cache, but only the question chooses what else does."""

from collections.abc import Callable

import pytest

from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.importance import observed_rows
from purekv_cli.runtime.engine import Engine
from purekv_cli.runtime.sampling import Generation
from purekv_cli.runtime.session import Session
from tests.runtime.adapter import TinyAdapter

ASIDE, QUESTION = "[0:00-0:01] so long", "why?"
FULL = f"{ASIDE}\n\n{QUESTION}"


@pytest.fixture(scope="module")
def adapter() -> TinyAdapter:
    return TinyAdapter()


def asked(adapter: TinyAdapter, aside: str, ask: Callable[..., object] = Session.first) -> Session:
    engine = Engine(adapter, MethodConfig(budget=Budget("fraction", 0.7)))
    session = engine.open(adapter.inputs(FULL))
    session.aside = aside
    for _ in ask(session, FULL, Generation(max_tokens=1)):  # type: ignore[attr-defined]
        pass
    return session


@pytest.mark.parametrize("ask", [Session.first, Session.ask], ids=["first", "ask"])
def test_only_the_question_is_observed_and_all_text_is_kept(adapter: TinyAdapter, ask: Callable[..., object]) -> None:
    session = asked(adapter, ASIDE, ask)
    assert session.cache is not None
    prompt = session.cache.prompt
    assert prompt is not None
    (rows,) = observed_rows(prompt.masks, "question")
    count = adapter.tail(f"\n\n{QUESTION}").shape[1]
    assert rows.nonzero()[:, 0].tolist() == list(range(prompt.length - count, prompt.length))
    text = set(prompt.masks.protected[0].nonzero()[:, 0].tolist())
    assert len(text) > count + len(ASIDE)
    for kept in session.kept:
        assert all(text <= set(head) for head in kept[0].tolist())


def test_what_stays_is_chosen_otherwise_than_by_all_of_the_text(adapter: TinyAdapter) -> None:
    def kept(aside: str) -> list[list[int]]:
        return [sorted(set(layer.flatten().tolist())) for layer in asked(adapter, aside).kept]

    assert kept(ASIDE) != kept("")
    assert kept("something else") == kept("")
