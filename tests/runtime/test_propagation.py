"""Propagation is the model with a mask: from a layer on no row reads a token that does not flow."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from purekv_cli.method.budget import layer_entries
from purekv_cli.method.config import MethodConfig, Propagation, SparseConfig
from purekv_cli.method.layout import VideoLayout
from purekv_cli.method.pattern import build, content_change
from purekv_cli.runtime.attach import attach
from tests.runtime.fast_path import LAYERS, SPARSE, STEPS, TOLERANCE, decode, embedded, fast, method, prompt_of
from tests.runtime.masked import gone_from, masked_logits
from tests.runtime.tiny import DEVICE, Clip

pytestmark = pytest.mark.usefixtures("small_tiles")


@pytest.mark.parametrize("sparse", [SPARSE, SparseConfig(enabled=False)], ids=["sparse", "dense"])
@pytest.mark.parametrize("share", [0.1, 0.7, 0.9])
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_propagation_is_the_model_without_the_other_tokens(
    model: PreTrainedModel, layer: int, share: float, sparse: SparseConfig
) -> None:
    """From layer P on no row reads a token outside the set, in prefill as in every later step."""
    prompts = prompt_of(model, frames=10)
    check_propagation(model, prompts, method(budget=0.5, sparse=sparse, propagate=Propagation(layer, share)))


@pytest.mark.parametrize(
    "dials",
    [
        {"policy": "purekv-paper"},
        {"policy": "random"},
        {"observe": "video"},
        {"observe": "all"},
        {"one_set": True},
        {"normalise": True},
        {"carry": 0.1},
        {"layer_weights": (1.0, 0.2, 3.0, 0.2)},
        {"layer_weights": (0.2, 0.4, 3.0, 1.0), "one_set": True},
        {"layer_weights": (1.0, 0.2, 0.2, 3.0), "preamble_layers": (0,), "preamble_share": 0.0},
        {"preamble_layers": (3,), "preamble_share": 0.0, "one_set": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("share", [0.7, 0.5])
def test_propagation_with_every_dial(model: PreTrainedModel, dials: dict[str, Any], share: float) -> None:
    """Also where no more flows than the budget holds: then all of it stays."""
    check_propagation(model, prompt_of(model, frames=10), method(budget=0.5, propagate=Propagation(2, share), **dials))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "llama"])
def test_propagation_in_other_families(families: dict[str, PreTrainedModel], family: str) -> None:
    model = families[family]
    check_propagation(model, prompt_of(model), method(budget=0.6, propagate=Propagation(2, 0.75)))


@pytest.mark.parametrize("sparse", [SPARSE, SparseConfig(enabled=False)], ids=["sparse", "dense"])
def test_propagation_with_a_video_at_the_very_end(model: PreTrainedModel, sparse: SparseConfig) -> None:
    prompts = prompt_of(model, cut=8, frames=16)
    check_propagation(model, prompts, method(budget=0.9, sparse=sparse, propagate=Propagation(2, 0.95)))


def check_propagation(model: PreTrainedModel, prompts: Clip, config: MethodConfig) -> None:
    assert config.propagate is not None
    layer, length, layout = config.propagate.layer, prompts.length, prompts.layouts[0]
    watch = Watch()
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("purekv_cli.method.propagate.flowing", watch)
        got, cache = fast(model, prompts, config)
    flows = torch.zeros(length, dtype=torch.bool, device=DEVICE)
    flows[watch.rows] = True
    assert length * config.propagate.share - 1 < flows.sum() < length
    assert flows[-1]
    protected = torch.ones_like(flows)
    protected[layout.video] = False
    assert flows[protected].all()
    text, weights = int(protected.sum()), config.layer_weights
    entries = config.budget.entries(length, text, 1)
    held = layer if config.one_set else 0  # layers that waited are pruned among what flows
    preamble = set(range(1, layout.before))
    lean = [config.preamble_layers is not None and at not in config.preamble_layers for at in range(LAYERS)]
    texts = [text - len(preamble) if without else text for without in lean]
    budgets = layer_entries(entries, texts, length - text, weights)
    for index, (places, own, without) in enumerate(zip(cache.kept, budgets, lean, strict=True)):
        assert (not without) == preamble.issubset(places.flatten().tolist())
        assert places.shape[-1] == (
            min(own, int(flows.sum()) - without * len(preamble)) if index >= layer or held else own
        )
        assert index < layer or flows[places].all()

    causal = torch.ones(length, length, dtype=torch.bool, device=DEVICE).tril()
    pattern: list[Tensor | None] = [None] * LAYERS
    if config.sparse.enabled:
        content = content_change(embedded(model, prompts.inputs["input_ids"])[0, layout.video], layout.grid)
        pattern[:layer] = [build(layout, config.sparse, content).dense_mask()] * layer
        pattern[layer - 1] = build(layout, config.sparse, content, rows=flows).dense_mask()
    above = causal & flows
    if config.sparse.enabled and flows.sum() >= config.sparse.min_tokens:
        among = build(layout, config.sparse, content, only=watch.rows).dense_mask()
        assert not torch.equal(among, causal[: len(among), : len(among)])
        above[watch.rows[:, None], watch.rows] = among
    pattern[layer:] = [above] * (LAYERS - layer)
    words = [40, 41, 42, 43, 44][:STEPS]
    sequences = torch.cat([prompts.inputs["input_ids"], torch.tensor([words], device=DEVICE)], 1)
    gone = gone_from(cache.kept, length, lambda position: length)
    truth = masked_logits(model, prompts, sequences, gone, pattern)[:, length - 1 :]
    with torch.no_grad(), attach(model, config, layout=prompts.layouts) as attached:
        have = decode(attached, prompts, got, cache, words)
    torch.testing.assert_close(have, truth, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("recent", [None, 1])
def test_the_pattern_among_some_tokens_is_that_of_their_rows(recent: int | None) -> None:
    layout = VideoLayout(130, torch.arange(5, 5 + 120), (10, 3, 4))
    config = SparseConfig(tile=(2, 2), recent=recent)
    generator = torch.Generator().manual_seed(0)
    content = torch.rand(120, generator=generator)
    some = (torch.rand(130, generator=generator) < 0.4).nonzero()[:, 0]
    whole = build(layout, config, content, rows=some).dense_mask()
    among = build(layout, config, content, only=some)
    assert torch.equal(among.dense_mask(), whole[some[:, None], some])
    assert torch.equal(among.rows, torch.arange(len(some)))
    assert 0 < among.density < 1


class Watch:
    """`flowing`, and what it said last."""

    def __init__(self) -> None:
        from purekv_cli.method.propagate import flowing

        self.original = flowing
        self.rows = torch.zeros(0)

    def __call__(self, *args: Any) -> Tensor:
        self.rows = self.original(*args)
        return self.rows


def test_a_share_of_the_budget_keeps_all_that_flows(model: PreTrainedModel) -> None:
    prompts = prompt_of(model)
    with torch.no_grad():
        _, cache = fast(model, prompts, method(budget=0.6, propagate=Propagation(2, 0.6)))
    assert torch.equal(cache.kept[2], cache.kept[3])
    assert not torch.equal(cache.kept[0], cache.kept[2])


def test_a_share_of_one_changes_nothing(model: PreTrainedModel) -> None:
    prompts = prompt_of(model)
    with torch.no_grad():
        want, plain = fast(model, prompts, method())
        got, cache = fast(model, prompts, method(propagate=Propagation(2, 1.0)))
    assert torch.equal(got, want)
    assert all(torch.equal(a, b) for a, b in zip(cache.kept, plain.kept, strict=True))


def test_a_layer_beyond_the_last_changes_nothing(model: PreTrainedModel) -> None:
    with torch.no_grad():
        want, _ = fast(model, prompt_of(model), method())
        got, _ = fast(model, prompt_of(model), method(propagate=Propagation(LAYERS, 0.6)))
    assert torch.equal(got, want)


def test_which_tokens_flow_does_not_depend_on_carry(model: PreTrainedModel) -> None:
    """A layer's own choice does; what the layers above may want is asked of all layers so far."""
    prompts, flows, kept = prompt_of(model, frames=10), [], []
    for carry in (0.0, 1.0):
        watch = Watch()
        with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
            patch.setattr("purekv_cli.method.propagate.flowing", watch)
            _, cache = fast(model, prompts, method(carry=carry, propagate=Propagation(3, 0.7)))
        flows.append(watch.rows)
        kept.append(cache.kept[2])
    assert torch.equal(*flows)
    assert not torch.equal(*kept)
