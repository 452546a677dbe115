"""Turns on the tiny model, stopped or failing anywhere: the session goes on as if only what was said had happened."""

import signal
from collections.abc import Iterator

import pytest

from purekv_cli.chat.turn import first_ctrl_c, said, take_turn
from purekv_cli.errors import OutOfResources
from purekv_cli.kernels import allow
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig, Observe
from purekv_cli.runtime.engine import Engine
from purekv_cli.runtime.events import Answer, Event
from purekv_cli.runtime.sampling import Generation
from purekv_cli.runtime.session import Session
from tests.runtime.adapter import TinyAdapter

LONG = 2  # tokens of an answer


@pytest.fixture(scope="module")
def adapter() -> TinyAdapter:
    return TinyAdapter()


@pytest.fixture(params=[("auto", "question"), ("auto", "template"), ("reference", "question")], ids="-".join)
def observe(request: pytest.FixtureRequest) -> Iterator[Observe]:
    """Whose attention is read; tokens come straight from the weights, or through transformers."""
    kernels, whose = request.param
    allow(kernels)
    yield whose
    allow("auto")


class Talk:
    """A session and its turns."""

    def __init__(self, adapter: TinyAdapter, observe: Observe = "question") -> None:
        method = MethodConfig(policy="purekv", budget=Budget("fraction", 0.5), observe=observe)
        self.session: Session = Engine(adapter, method).open(adapter.inputs("what happens?"))
        self.heard = False
        self.events: list[Event] = []

    def say(self, question: str, most: int = LONG, stop_after: int | None = None) -> Answer:
        """`stop_after`: how many events come before Ctrl-C does."""
        self.events.clear()
        answer = take_turn(
            self.session,
            question,
            Generation(max_tokens=most),
            self.events.append,
            lambda: stop_after is not None and len(self.events) >= stop_after,
            first=not self.heard,
        )
        self.heard |= said(answer)
        return answer


def cost(answer: Answer) -> tuple[tuple[int, ...], int, float]:
    return answer.token_ids, answer.stats.prompt_tokens, answer.stats.kept_tokens


def test_turns_are_what_the_engines_follow_up_gives(adapter: TinyAdapter, observe: Observe) -> None:
    talk, plain = Talk(adapter, observe), Talk(adapter, observe).session
    turns = [talk.say(question) for question in ("what happens?", "and then?", "why?")]
    few = Generation(max_tokens=LONG)
    *_, first = plain.first("what happens?", few)
    *_, second = plain.follow_up("and then?", few)
    *_, third = plain.follow_up("why?", few)
    for turn, expected in zip(turns, (first, second, third), strict=True):
        assert isinstance(expected, Answer)
        assert cost(turn) == cost(expected)


@pytest.mark.parametrize("earlier", [(), ("what happens?",)], ids=["first turn", "second turn"])
def test_stopped_after_any_event_the_chat_goes_on_from_what_was_said(
    adapter: TinyAdapter, observe: Observe, earlier: tuple[str, ...]
) -> None:
    def talk_of(*turns: tuple[str, int, int | None]) -> tuple[list[Answer], Talk]:
        talk = Talk(adapter, observe)
        return [talk.say(*turn) for turn in turns], talk

    before = [(question, LONG, None) for question in earlier]
    after = ("why?", LONG, None)
    expected = {  # by the number of tokens that were said: as if no more had been allowed
        said: cost(talk_of(*before, *([("and then?", said, None)] if said else []), after)[0][-1])
        for said in range(LONG + 1)
    }
    whole = talk_of(*before, ("and then?", LONG, None))[1].events
    seen = set()
    for stop_after in range(len(whole) - 1):
        (*_, answer, following), _ = talk_of(*before, ("and then?", LONG, stop_after), after)
        assert answer.finish == "interrupted"
        assert cost(following) == expected[len(answer.token_ids)]
        seen.add(len(answer.token_ids))
    assert seen == set(expected)


@pytest.fixture
def stock_way() -> Iterator[None]:
    """Through transformers, whose layers take hooks."""
    allow("reference")
    yield
    allow("auto")


@pytest.mark.usefixtures("stock_way")
@pytest.mark.parametrize("error", [RuntimeError("odd"), RuntimeError("can't allocate memory")], ids=str)
def test_a_turn_that_fails_is_taken_back(adapter: TinyAdapter, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    talk, plain = Talk(adapter), Talk(adapter)
    assert cost(talk.say("what happens?")) == cost(plain.say("what happens?"))
    hook = adapter.model.get_decoder().layers[2].register_forward_pre_hook(fail)
    with pytest.raises((RuntimeError, OutOfResources)):
        talk.say("and then?")
    hook.remove()
    assert cost(talk.say("why?")) == cost(plain.say("why?"))


@pytest.fixture
def ctrl_c_raises() -> Iterator[None]:
    """Also in a background job, which a shell starts with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_raises")
def test_one_ctrl_c_is_noted_and_a_second_one_raises() -> None:
    with first_ctrl_c() as pressed:
        assert not pressed()
        signal.raise_signal(signal.SIGINT)
        assert pressed()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
