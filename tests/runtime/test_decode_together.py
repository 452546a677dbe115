"""Several answers generated in lockstep: each is the one it would be alone, whoever shares its steps."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from purekv_cli.kernels import decode
from purekv_cli.method import policies
from purekv_cli.runtime.attach import attach
from purekv_cli.runtime.decode_graph import GraphDecoder
from purekv_cli.runtime.decode_trial import same_alone
from purekv_cli.runtime.sampling import Generation
from tests.kernels.devices import interpreted
from tests.runtime.test_decode_graph import Prefilled, config
from tests.runtime.tiny import DEVICE, tiny_model
from tests.runtime.uneven import Uneven

PROMPTS, TOKENS = 5, 7
GREEDY = [Generation(max_tokens=TOKENS)] * PROMPTS
SAMPLED = [Generation(max_tokens=TOKENS, temperature=2.0, seed=seed) for seed in range(PROMPTS)]
NUCLEUS = [replace(generation, top_p=0.8) for generation in SAMPLED]
WAYS = {"greedy": GREEDY, "sampled": SAMPLED, "nucleus": NUCLEUS}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model()


@pytest.fixture(scope="module")
def prompts(model: Any) -> Iterator[list[Prefilled]]:
    """Of different lengths, layers and heads holding different numbers of entries."""
    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setitem(policies.POLICIES, "uneven", Uneven)
        attached = stack.enter_context(attach(model, config("uneven")))
        yield [Prefilled(attached, seed=seed, frames=4 + 4 * (seed % 3)) for seed in range(PROMPTS)]


@pytest.fixture(scope="module")
def decoder(model: Any) -> GraphDecoder:
    return GraphDecoder(model)


def together(
    decoder: GraphDecoder, prompts: list[Prefilled], generations: list[Generation], seats: list[int]
) -> list[list[int]]:
    """The tokens of these prompts' answers."""
    decoder.clear(max(generations[seat].max_tokens for seat in seats), len(seats))
    for seat in seats:
        decoder.seat(prompts[seat].cache, prompts[seat].next)
    logits = torch.cat([prompts[seat].logits for seat in seats])
    steps = list(decoder.run_together(logits, [generations[seat] for seat in seats]))
    return [list(tokens) for tokens in zip(*steps, strict=True)]


@pytest.fixture(scope="module")
def alone(decoder: GraphDecoder, prompts: list[Prefilled]) -> dict[str, list[list[int]]]:
    """By way of drawing, every prompt's answer without company."""

    def answer(prompt: Prefilled, generation: Generation) -> list[int]:
        decoder.load(prompt.cache, prompt.next, TOKENS)
        return list(decoder.run(prompt.logits, generation))

    return {way: [answer(*pair) for pair in zip(prompts, many, strict=True)] for way, many in WAYS.items()}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seats=st.lists(st.integers(0, PROMPTS - 1), min_size=1, max_size=8), way=st.sampled_from(sorted(WAYS)))
def test_company_changes_no_answer(
    decoder: GraphDecoder,
    prompts: list[Prefilled],
    alone: dict[str, list[list[int]]],
    seats: list[int],
    way: str,
) -> None:
    assert together(decoder, prompts, WAYS[way], seats) == [alone[way][seat] for seat in seats]


def test_the_kernels_give_everyone_its_own_answer() -> None:
    """One layer: without a GPU Triton's interpreter runs them."""
    model = tiny_model(layers=1)
    with interpreted(), attach(model, config("purekv")) as attached:
        prompts = [Prefilled(attached, seed=seed, frames=4 + 4 * seed) for seed in range(3)]
        decoder = GraphDecoder(model)
        decoder.kernels = decode.in_triton()

        def answer(seats: list[int]) -> tuple[list[list[int]], torch.Tensor]:
            """Tokens, and the logits of another step."""
            tokens = together(decoder, prompts, [Generation(max_tokens=2)] * 3, seats)
            return tokens, decoder.step()[: len(seats)]

        alone = [answer([seat]) for seat in (2, 0, 1)]
        tokens, logits = answer([2, 0, 1])
        assert tokens == [own[0] for own, _ in alone]
        assert torch.equal(logits, torch.cat([own for _, own in alone]))


def test_who_may_say_less_runs_along_with_who_may_say_more(
    decoder: GraphDecoder, prompts: list[Prefilled], alone: dict[str, list[list[int]]]
) -> None:
    """What comes after the end of a shorter answer is the caller's to leave unread."""
    generations = [replace(GREEDY[0], max_tokens=count) for count in (2, TOKENS, 1, 1, 1)]
    found = together(decoder, prompts, generations, [0, 1, 2])
    assert [len(tokens) for tokens in found] == [TOKENS] * 3
    assert found[0][:2] == alone["greedy"][0][:2]
    assert found[1] == alone["greedy"][1]


def test_one_prompt_after_several_and_several_after_one(
    model: Any, prompts: list[Prefilled], alone: dict[str, list[list[int]]]
) -> None:
    decoder = GraphDecoder(model)
    for seats in ([0], [1, 2, 4], [3], [4, 3, 2, 1, 0], [2]):
        assert together(decoder, prompts, GREEDY, seats) == [alone["greedy"][seat] for seat in seats]
    if DEVICE.type == "cuda":
        assert decoder.no_graph is None


def test_answers_drawn_in_different_ways_do_not_share_steps(decoder: GraphDecoder, prompts: list[Prefilled]) -> None:
    with pytest.raises(ValueError, match="different ways"):
        together(decoder, prompts, [GREEDY[0], *SAMPLED[1:]], [0, 1])


def test_kernels_that_round_in_company_otherwise_are_found(decoder: GraphDecoder) -> None:
    def off(*given: Any) -> Any:
        out = decoder.kernels.logits(*given)
        return out if len(out) < 4 else out.nextafter(out + 1)

    assert decoder.exact(8)
    kernels = replace(decoder.kernels, logits=off)
    assert same_alone(kernels, decoder.weights, 2)
    assert not same_alone(kernels, decoder.weights, 4)
