"""The fast decoder against the stock path: the same tokens, the same logits, and a cache that goes on as if it had."""

from collections.abc import Iterator
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
from purekv_cli.runtime.embed import embed_tokens
from purekv_cli.runtime.sampling import Generation, Sampler
from purekv_cli.runtime.weights import Unsupported
from tests.runtime.tiny import DEVICE, clip, positions, tiny_model
from tests.runtime.uneven import Uneven

CLOSE = 1e-5 if DEVICE.type == "cpu" else 1e-4  # a GPU adds in another order


class Prefilled:
    """A pruned prompt, read by the stock path."""

    def __init__(self, attached: Attached, family: str, seed: int = 1, frames: int = 6) -> None:
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


def config(policy: str, **dials: Any) -> MethodConfig:
    return MethodConfig(policy=policy, budget=Budget("fraction", 0.5), **dials)


@pytest.fixture(autouse=True)
def uneven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(policies.POLICIES, "uneven", Uneven)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model()


def pair(model: Any, policy: str, **dials: Any) -> Iterator[tuple[Prefilled, Prefilled, GraphDecoder]]:
    """The same prompt read twice: once for the stock path, once for the fast one."""
    with attach(model, config(policy)) as attached:
        yield (
            Prefilled(attached, "qwen2_5_vl", **dials),
            Prefilled(attached, "qwen2_5_vl", **dials),
            GraphDecoder(model),
        )


@pytest.mark.parametrize("policy", ["dense", "purekv", "purekv-paper", "uneven"])
def test_greedy_tokens_and_what_follows_are_those_of_the_stock_path(model: Any, policy: str) -> None:
    for stock, fast, decoder in pair(model, policy):
        decoder.load(fast.cache, fast.next, 12)
        assert list(decoder.run(fast.logits, Generation(max_tokens=12))) == stock.answer(12)[0]
        decoder.store(fast.cache)
        fast.next += decoder.fed
        assert fast.cache.get_seq_length() == stock.cache.get_seq_length()
        for mine, theirs in zip(fast.cache.layers, stock.cache.layers, strict=True):
            assert torch.equal(mine.kept_pos, theirs.kept_pos)
        turn = [30, 31, 32, 33]
        torch.testing.assert_close(fast.feed(turn), stock.feed(turn), atol=CLOSE, rtol=CLOSE)
