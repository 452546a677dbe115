"""A turn read from the weights is the turn that transformers reads, and leaves the same cache."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from purekv_cli.kernels.attention import backends, reference
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.policies import POLICIES
from purekv_cli.runtime import fast_turn as module
from purekv_cli.runtime.answering import text_positions
from purekv_cli.runtime.attach import attach
from purekv_cli.runtime.cache import CompactCache
from purekv_cli.runtime.engine import Engine
from purekv_cli.runtime.fast_turn import fast_turn
from purekv_cli.runtime.sampling import Generation
from purekv_cli.runtime.session import Session
from purekv_cli.runtime.weights import Unsupported, read_weights
from tests.runtime.adapter import TinyAdapter
from tests.runtime.tiny import DEVICE, VIDEO_FAMILIES, tiny_model
from tests.runtime.uneven import Uneven


def after_an_answer(adapter: TinyAdapter, policy: str) -> Session:
    method = MethodConfig(policy=policy, budget=Budget.parse("0.5"))
    session = Engine(adapter, method).open(adapter.inputs("what happens?"))
    list(session.first("what happens?", Generation(max_tokens=3)))
    return session


def turn_of(session: Session, count: int) -> tuple[Tensor, Tensor]:
    """Embeddings and positions of some text."""
    assert session.cache is not None
    ids = torch.randint(20, 300, (1, count), generator=torch.Generator().manual_seed(count)).to(DEVICE)
    past = session.cache.get_seq_length()
    positions = text_positions(session.inputs.position_ids, past, session.next_position, count)
    return session.engine.adapter.model.get_input_embeddings()(ids), positions


@torch.inference_mode()
def through_transformers(session: Session, embeds: Tensor, positions: Tensor, cache: CompactCache) -> Tensor:
    with attach(session.engine.adapter.model, session.engine.config) as attached:
        out = attached.decoder(
            inputs_embeds=embeds, position_ids=positions.to(embeds.device), past_key_values=cache, use_cache=True
        )
    hidden: Tensor = out.last_hidden_state[:, -1:]
    return hidden


def same_caches(one: CompactCache, other: CompactCache) -> None:
    assert one.get_seq_length() == other.get_seq_length()
    for mine, theirs in zip(one.layers, other.layers, strict=True):
        for a, b in zip(mine.stored(), theirs.stored(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", VIDEO_FAMILIES)
@pytest.mark.parametrize("policy", ["dense", "purekv", "random", "uneven"])
def test_two_turns_are_what_transformers_reads(family: str, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POLICIES, "uneven", Uneven)
    adapter = TinyAdapter(tiny_model(family))
    session = after_an_answer(adapter, policy)
    assert session.cache is not None
    assert any(layer.has_holes for layer in session.cache.layers) is (policy == "uneven")
    ours, theirs, weights = session.cache, deepcopy(session.cache), read_weights(adapter.model)
    for count in (1, 9):
        embeds, positions = turn_of(session, count)
        with torch.inference_mode():
            hidden = fast_turn(weights, embeds, positions, ours)
        torch.testing.assert_close(
            hidden, through_transformers(session, embeds, positions, theirs), atol=1e-4, rtol=1e-4
        )
        same_caches(ours, theirs)


@pytest.mark.parametrize(("past", "count"), [(1, 1), (1, 7), (64, 1), (67, 5), (70, 130)])
def test_the_past_and_the_turn_are_merged_exactly(past: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever kernel gives the parts; some rows read next to nothing of the past, others nothing of themselves."""
    slow = next(backend for backend in backends.BACKENDS if backend.name == "reference")
    monkeypatch.setattr(module, "_flash", lambda query, key: slow)
    random = torch.Generator().manual_seed(past)
    query, key, value = (torch.randn(1, heads, past + count, 16, generator=random) for heads in (6, 2, 2))
    key[:, 0, :past] *= 30
    key[:, 1, past:] *= 30
    query = query[:, :, past:]
    truth, _ = reference.attention(query, key, value, 0.25, causal=True)
    torch.testing.assert_close(module._read(query, key, value, 0.25, None), truth, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU")
@pytest.mark.parametrize(("past", "count"), [(1, 1), (6630, 23), (300, 200)])
def test_the_kernel_on_a_gpu_reads_the_same(past: int, count: int) -> None:
    random = torch.Generator().manual_seed(past)
    query, key, value = (
        torch.randn(1, heads, past + count, 128, generator=random).to(DEVICE, torch.bfloat16) for heads in (28, 4, 4)
    )
    query = query[:, :, past:]
    assert module._flash(query, key) is not None
    truth, _ = reference.attention(query, key, value, 128**-0.5, causal=True)
    torch.testing.assert_close(module._read(query, key, value, 128**-0.5, None), truth, atol=2e-2, rtol=2e-2)


def test_progress_is_told_layer_by_layer() -> None:
    session, told = after_an_answer(TinyAdapter(), "purekv"), []
    assert session.cache is not None
    embeds, positions = turn_of(session, 4)
    weights = read_weights(session.engine.adapter.model)
    fast_turn(weights, embeds, positions, session.cache, lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_it_cannot_read_is_left_as_it_was() -> None:
    session = after_an_answer(TinyAdapter(), "purekv")
    assert session.cache is not None
    embeds, positions = turn_of(session, 4)
    weights, length = read_weights(session.engine.adapter.model), session.cache.get_seq_length()
    with pytest.raises(Unsupported):
        fast_turn(weights, embeds.expand(2, -1, -1), positions, session.cache)
    assert session.cache.get_seq_length() == length
    with pytest.raises(Unsupported):
        fast_turn(weights, embeds, positions, CompactCache(4))
