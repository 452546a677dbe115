"""The fast decoder against the stock path: the same tokens, the same logits, and a cache that goes on as if it had."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from purekv_cli.method import policies
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig
from purekv_cli.runtime.answering import text_positions
from purekv_cli.runtime.attach import Attached, attach
from purekv_cli.runtime.cache import CompactCache
from purekv_cli.runtime.decode_graph import GraphDecoder
from purekv_cli.runtime.decode_pool import roomy
from purekv_cli.runtime.embed import embed_tokens
from purekv_cli.runtime.sampling import Generation, Sampler
from purekv_cli.runtime.weights import Unsupported
from tests.runtime.tiny import DEVICE, TEXT_FAMILIES, clip, positions, tiny_model
from tests.runtime.uneven import Uneven

CLOSE = 1e-5 if DEVICE.type == "cpu" else 1e-4  # a GPU adds in another order


class Prefilled:
    """A pruned prompt, read by the stock path."""

    def __init__(self, attached: Attached, seed: int = 1, frames: int = 6) -> None:
        self.attached, self.model = attached, attached.model
        prompt = clip(self.model, seed=seed, frames=frames)
        self.at = positions(self.model, prompt, prompt.length)
        with torch.no_grad():
            self.logits = self.model(**prompt.inputs, use_cache=True).logits[:, -1]
        assert attached.cache is not None
        self.cache: CompactCache = attached.cache
        self.next = prompt.length if self.at is None else int(self.at[1:].amax()) + 1

    def feed(self, ids: list[int]) -> Tensor:
        """Logits [n, vocabulary] of more text, by the stock path."""
        past = self.cache.get_seq_length()
        like = torch.zeros(1, 1, dtype=torch.long) if self.at is None else self.at.cpu()
        at = text_positions(like, past, self.next, len(ids)).to(DEVICE)
        embeds = embed_tokens(self.model, torch.tensor([ids]))
        with torch.no_grad():
            out = self.attached.decoder(
                inputs_embeds=embeds, position_ids=at, past_key_values=self.cache, use_cache=True
            ).last_hidden_state
            self.next += len(ids)
            logits: Tensor = self.model.get_output_embeddings()(out)[0]
        return logits

    def answer(self, count: int, generation: Generation | None = None) -> tuple[list[int], list[Tensor]]:
        """Stock decoding: `count` tokens, all but the last fed, and the logits that each was drawn from."""
        sampler = Sampler(generation or Generation(), DEVICE)
        logits, tokens, seen = self.logits, [], []
        for index in range(count):
            if index:
                logits = self.feed(tokens[-1:])
            seen.append(logits[-1])
            tokens.append(int(sampler.next(logits)))
        return tokens, seen

    def answered(self, decoder: GraphDecoder, count: int, generation: Generation | None = None) -> list[int]:
        """The same by the fast decoder."""
        decoder.load(self.cache, self.next, count)
        tokens = list(decoder.run(self.logits, generation or Generation(max_tokens=count)))
        decoder.store(self.cache)
        self.next += decoder.fed
        return tokens


def config(policy: str) -> MethodConfig:
    return MethodConfig(policy=policy, budget=Budget("fraction", 0.5))


@pytest.fixture(autouse=True)
def uneven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(policies.POLICIES, "uneven", Uneven)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model()


@pytest.fixture
def decoder(model: Any) -> GraphDecoder:
    return GraphDecoder(model)


@contextmanager
def twice(model: Any, policy: str = "uneven", **dials: Any) -> Iterator[tuple[Prefilled, Prefilled]]:
    """The same prompt read twice: once for the stock path, once for the fast one."""
    with attach(model, config(policy)) as attached:
        yield Prefilled(attached, **dials), Prefilled(attached, **dials)


def same_cache(fast: Prefilled, stock: Prefilled) -> None:
    """Equal as far as the model can tell: what it holds, and what it says to another turn."""
    assert fast.cache.get_seq_length() == stock.cache.get_seq_length()
    for mine, theirs in zip(fast.cache.layers, stock.cache.layers, strict=True):
        assert torch.equal(mine.kept_pos, theirs.kept_pos)
    turn = [30, 31, 32, 33]
    torch.testing.assert_close(fast.feed(turn), stock.feed(turn), atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("policy", ["dense", "purekv", "purekv-paper", "uneven"])
def test_greedy_tokens_and_what_follows_are_those_of_the_stock_path(
    model: Any, decoder: GraphDecoder, policy: str
) -> None:
    with twice(model, policy) as (stock, fast):
        assert fast.answered(decoder, 12) == stock.answer(12)[0]
        same_cache(fast, stock)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "llama", "mistral"])
def test_other_families(family: str) -> None:
    model = tiny_model(family)
    decoder = GraphDecoder(model)
    with twice(model, "dense" if family in TEXT_FAMILIES else "purekv-paper") as (stock, fast):
        assert fast.answered(decoder, 8) == stock.answer(8)[0]
        same_cache(fast, stock)


def test_the_logits_of_a_step(model: Any, decoder: GraphDecoder) -> None:
    with twice(model) as (stock, fast):
        tokens, logits = stock.answer(6)
        decoder.load(fast.cache, fast.next, 6)
        answer = decoder.run(fast.logits, Generation(max_tokens=6))
        for _ in range(3):
            next(answer)
        for number in range(5):
            mine = decoder.logits_after(tokens[: number + 1])
            torch.testing.assert_close(mine, logits[number + 1], atol=CLOSE, rtol=CLOSE)


def test_a_step_begun_before_the_stop_was_seen_leaves_no_trace(model: Any, decoder: GraphDecoder) -> None:
    with twice(model) as (stock, fast):
        tokens, _ = stock.answer(2)
        decoder.load(fast.cache, fast.next, 50)
        for token in decoder.run(fast.logits, Generation(max_tokens=50)):
            if token == tokens[1]:
                break
        assert decoder.fed == 1
        decoder.store(fast.cache)
        fast.next += decoder.fed
        same_cache(fast, stock)


def test_a_stop_at_once_and_an_answer_of_one_token_change_nothing(model: Any, decoder: GraphDecoder) -> None:
    with twice(model) as (stock, fast):
        expected = stock.answer(1)[0]
        assert fast.answered(decoder, 1) == expected
        decoder.load(fast.cache, fast.next, 9)
        assert next(decoder.run(fast.logits, Generation(max_tokens=9))) == expected[0]
        decoder.store(fast.cache)
        same_cache(fast, stock)


def test_turns_in_a_row_and_a_rewind(model: Any, decoder: GraphDecoder) -> None:
    with twice(model) as (stock, fast):
        mark = fast.cache.mark()
        for turn in ([40, 41], [42], [43, 44, 45]):
            assert fast.answered(decoder, 5) == stock.answer(5)[0]
            fast.logits, stock.logits = fast.feed(turn)[-1:], stock.feed(turn)[-1:]
        fast.cache.rewind(mark)
        stock.cache.rewind(mark)
        same_cache(fast, stock)


def test_another_question_is_answered_with_the_same_graph(model: Any, decoder: GraphDecoder) -> None:
    with attach(model, config("uneven")) as attached:
        for seed in (1, 2):
            stock, fast = (Prefilled(attached, seed=seed) for _ in range(2))
            assert fast.answered(decoder, 6) == stock.answer(6)[0]
        assert decoder.captures == (DEVICE.type == "cuda")


def test_room_grows_with_the_clip_and_the_answer(model: Any, decoder: GraphDecoder) -> None:
    with attach(model, config("dense")) as attached:
        for frames, count in ((2, 3), (12, 3), (12, 90), (4, 20)):
            stock, fast = (Prefilled(attached, frames=frames) for _ in range(2))
            assert fast.answered(decoder, count) == stock.answer(count)[0]
    assert decoder.captures <= 3


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_a_seed_is_an_answer(model: Any, decoder: GraphDecoder, top_p: float) -> None:
    def answer(seed: int) -> list[int]:
        with attach(model, config("uneven")) as attached:
            generation = Generation(max_tokens=30, temperature=3.0, top_p=top_p, seed=seed)
            return Prefilled(attached).answered(decoder, 30, generation)

    first = answer(1)
    assert answer(1) == first
    assert answer(2) != first


def test_the_cpu_draws_as_the_stock_sampler(model: Any, decoder: GraphDecoder) -> None:
    if DEVICE.type != "cpu":
        pytest.skip("a GPU draws with noise of its own")
    generation = Generation(max_tokens=20, temperature=2.0, top_p=0.8, seed=3)
    with twice(model) as (stock, fast):
        assert fast.answered(decoder, 20, generation) == stock.answer(20, generation)[0]


def test_several_prompts_at_once_are_not_for_it(model: Any, decoder: GraphDecoder) -> None:
    with attach(model, config("dense")) as attached:
        cache = Prefilled(attached).cache
        cache.batch_repeat_interleave(2)
        with pytest.raises(Unsupported, match="one prompt at a time"):
            decoder.load(cache, 50, 4)


@pytest.mark.parametrize("size", [1, 7, 16, 17, 1000, 1025, 123457])
def test_sizes_go_in_small_steps(size: int) -> None:
    assert size <= roomy(size) <= max(size + 1, size * 9 / 8)
    assert roomy(roomy(size)) == roomy(size)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="graphs need a GPU")
def test_without_a_graph_the_answer_is_the_same(
    model: Any, decoder: GraphDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no graphs today")

    with twice(model) as (stock, fast):
        monkeypatch.setattr(torch.cuda, "CUDAGraph", refuse)
        assert fast.answered(decoder, 6) == stock.answer(6)[0]
    assert decoder.no_graph == "capturing a CUDA graph failed: no graphs today"
