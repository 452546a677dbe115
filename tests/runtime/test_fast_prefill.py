"""The fast prefill against the stock path, step by step."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from purekv_cli.errors import UsageError
from purekv_cli.kernels.sparse_prefill.backends import tried
from purekv_cli.method.config import Propagation, SparseConfig
from purekv_cli.method.layout import VideoLayout
from purekv_cli.runtime.attach import attach
from purekv_cli.runtime.cache import CompactCache
from purekv_cli.runtime.fast_prefill import fast_prefill, uses_sparse
from purekv_cli.runtime.metrics import KVMeter, StageClock
from purekv_cli.runtime.prompt import Prompt
from purekv_cli.runtime.weights import Unsupported, read_weights
from tests.runtime.fast_path import (
    LAYERS,
    SPARSE,
    TOLERANCE,
    angles,
    compare,
    embedded,
    fast,
    method,
    prompt_of,
    stock,
)
from tests.runtime.tiny import DEVICE, TEXT_FAMILIES, VIDEO_FAMILIES, Clip, batch, tiny_model

POLICIES = ("purekv", "purekv-paper", "random", "dense")

pytestmark = pytest.mark.usefixtures("small_tiles")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", [*VIDEO_FAMILIES, *TEXT_FAMILIES])
def test_every_family_and_policy(families: dict[str, PreTrainedModel], family: str, policy: str) -> None:
    model = families[family]
    prompts = prompt_of(model)
    cache = compare(model, prompts, method(policy))
    assert all((entries.shape[-1] < prompts.length) == (policy != "dense") for entries in cache.kept)


@pytest.mark.parametrize("sparse", [SPARSE, SparseConfig(enabled=False)], ids=["sparse", "dense"])
@pytest.mark.parametrize(
    "policy",
    ["streaming-llm", "h2o", "snapkv", "pyramidkv", "adakv", "tova", "knorm", "infinipot-v", "vl-cache"],
)
def test_baselines_see_the_same_rows(
    model: PreTrainedModel, policy: str, sparse: SparseConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those before the question, and sets that differ in size from layer to layer and head to head."""
    monkeypatch.setattr("purekv_cli.method.policies.snapkv.SnapKV.window", 7)
    cache = compare(model, prompt_of(model), method(policy, sparse=sparse))
    sizes = torch.stack([(entries >= 0).sum(-1).double().mean() for entries in cache.kept])
    assert (sizes.max() > sizes.min()) == (policy == "pyramidkv")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_sparse_attention(families: dict[str, PreTrainedModel], family: str, policy: str) -> None:
    prompts = prompt_of(families[family])
    config = method(policy, sparse=SPARSE)
    assert uses_sparse(config, Prompt.of_layouts(prompts.layouts))
    compare(families[family], prompts, config)


@pytest.mark.parametrize("sparse", [SPARSE, SparseConfig(enabled=False)], ids=["sparse", "dense"])
@pytest.mark.parametrize(
    "dials",
    [
        {"budget": 0.3},
        {"budget": 1.0},
        {"one_set": True},
        {"normalise": True},
        {"carry": 0.1},
        {"carry": 0.3, "normalise": True},
        {"carry": 0.0, "one_set": True},
        {"carry": 0.1, "observe": "template"},
        {"layer_weights": (0.2, 3.0, 1.0, 0.5)},
        {"layer_weights": (1.0, 0.1, 0.1, 9.0), "observe": "all"},
        {"layer_weights": (1.0, 0.1, 0.1, 9.0), "one_set": True},
        {"layer_weights": (0.2, 3.0, 1.0, 0.5), "preamble_layers": (0, 2), "preamble_share": 0.0},
        {"preamble_layers": (), "preamble_share": 0.0, "observe": "all"},
        {"preamble_layers": (), "preamble_share": 0.5},
        {"observe": "video"},
        {"observe": "template"},
        {"observe": "all"},
        {"observe": "all", "one_set": True},
        {"policy": "purekv-paper", "score_layers": (2,)},
        {"policy": "purekv-paper", "score_layers": (3,)},
        {"policy": "purekv-paper", "observe": "all"},
        {"policy": "purekv-paper", "observe": "video"},
        {"policy": "purekv-paper", "observe": "template"},
    ],
    ids=str,
)
def test_every_dial(model: PreTrainedModel, dials: dict[str, Any], sparse: SparseConfig) -> None:
    compare(model, prompt_of(model), method(**dials, sparse=sparse))


@pytest.mark.parametrize("sparse", [SPARSE, SparseConfig(enabled=False)], ids=["sparse", "dense"])
@pytest.mark.parametrize("observe", ["question", "video"])
def test_a_video_at_the_very_end(model: PreTrainedModel, sparse: SparseConfig, observe: Any) -> None:
    prompts = prompt_of(model, cut=8)
    assert prompts.layouts[0].after == prompts.length
    compare(model, prompts, method(sparse=sparse, observe=observe))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_prompt_without_video_keeps_everything(model: PreTrainedModel, policy: str) -> None:
    ids = torch.randint(20, 300, (1, 23), device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0))
    layout = VideoLayout(23, torch.zeros(0, dtype=torch.int64), (0, 0, 0))
    prompts = Clip({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, [layout], 1.0)
    dials = {"propagate": Propagation(1, 0.3)} if policy == "purekv" else {}
    cache = compare(model, prompts, replace(method(policy), **dials))
    assert all(entries.shape[-1] == 23 for entries in cache.kept)


def test_a_single_token(model: PreTrainedModel) -> None:
    ids = torch.tensor([[33]], device=DEVICE)
    layout = VideoLayout(1, torch.zeros(0, dtype=torch.int64), (0, 0, 0))
    compare(model, Clip({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, [layout], 1.0), method())


def test_what_was_not_pruned_can_be_cropped(model: PreTrainedModel) -> None:
    """A question can be taken back from a dense cache, whatever order the sparse kernel reads keys in."""
    prompts = prompt_of(model)
    config = method("dense", sparse=SPARSE)
    with torch.no_grad(), attach(model, config, layout=prompts.layouts) as attached:
        _, slow_cache = stock(attached, prompts)
        _, cache = fast(model, prompts, config)
        cache.rewind(prompts.length - 5)
        slow_cache.rewind(prompts.length - 5)
    for ours, theirs in zip(cache.layers, slow_cache.layers, strict=True):
        torch.testing.assert_close(ours.keys, theirs.keys, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("sparse", [SPARSE, SparseConfig(enabled=False)], ids=["sparse", "dense"])
@pytest.mark.parametrize("propagation", [None, Propagation(1, 0.3)], ids=str)
def test_one_layer_at_a_time_is_full(
    model: PreTrainedModel, propagation: Propagation | None, sparse: SparseConfig
) -> None:
    prompts = prompt_of(model, frames=32)
    meter = KVMeter()
    with torch.no_grad():
        _, cache = fast(model, prompts, method(budget=0.3, sparse=sparse, propagate=propagation), meter=meter)
    one = prompts.length * cache.layers[0].entry_bytes
    assert 0 < meter.peak <= cache.kv_bytes() + one
    assert meter.peak < 0.6 * LAYERS * one


def test_progress_and_parts_are_told(model: PreTrainedModel) -> None:
    told: list[tuple[int, int]] = []
    clock = StageClock(DEVICE)
    with torch.no_grad():
        fast(model, prompt_of(model), method(), clock=clock, tell=lambda *done: told.append(done))
    assert told == [(1, LAYERS), (2, LAYERS), (3, LAYERS), (4, LAYERS)]
    assert clock.seconds("scoring") > 0
    assert clock.seconds("pruning") > 0


class NoWaiting(torch.utils._python_dispatch.TorchDispatchMode):
    """Fails on what would wait for a GPU: reading a number, counting what is not zero."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        assert not any(waits in name for waits in ("_local_scalar_dense", "nonzero", "masked_select")), name
        return func(*args, **(kwargs or {}))


def test_no_layer_waits_for_the_device(model: PreTrainedModel) -> None:
    prompts = prompt_of(model)
    guard = NoWaiting()

    def tell(done: int, of: int) -> None:
        if done == 1:
            guard.__enter__()
        elif done == of:
            guard.__exit__(None, None, None)

    with torch.no_grad():
        fast(model, prompts, method(), tell=tell)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
@pytest.mark.parametrize("sparse", [SPARSE, SparseConfig(enabled=False)], ids=["sparse", "dense"])
def test_no_layer_waits_for_a_gpu(sparse: SparseConfig) -> None:
    model = tiny_model(layers=LAYERS).to(torch.bfloat16)
    if sparse.enabled and tried("triton", torch.device("cuda", 0), torch.bfloat16, 16, 4, 2) is not None:
        pytest.skip("the reference kernel waits, and no other takes these heads here")
    prompts = prompt_of(model)
    modes = {0: "error", LAYERS: "default"}

    def tell(done: int, of: int) -> None:
        torch.cuda.set_sync_debug_mode(modes.get(done, "error"))

    with torch.no_grad():
        fast(model, prompts, method(sparse=sparse))  # kernels are tried at first use
        try:
            fast(model, prompts, method(sparse=sparse), tell=tell)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_what_it_does_not_do_is_said_in_words_and_leaves_the_cache_alone(model: PreTrainedModel) -> None:
    one = prompt_of(model)
    pair = batch(one, prompt_of(model, seed=2))
    weights, prompt = read_weights(model), Prompt.of_layouts(one.layouts, DEVICE)
    embeds, at = embedded(model, one.inputs["input_ids"]), angles(model, one, one.length)
    unscored = method("purekv-paper", score_layers=(3,), propagate=Propagation(2, 0.7))
    cases: list[tuple[str, Any]] = [
        ("several prompts", (embedded(model, pair.inputs["input_ids"]), at, prompt, method())),
        ("continue", (embeds[:, :-3], at[..., :-3], prompt, method())),
        ("chunks", (embeds, at, prompt, method(chunk=16))),
        ("no score at layer 1", (embeds, at, prompt, unscored)),
    ]
    for words, given in cases:
        cache = CompactCache(LAYERS)
        with torch.no_grad(), pytest.raises(Unsupported, match=words):
            fast_prefill(weights, *given, cache)
        assert cache.get_seq_length() == 0
        assert all(layer.entries == 0 for layer in cache.layers)
    with torch.no_grad():
        fast_prefill(weights, embeds, at, prompt, method(), cache)
        with pytest.raises(Unsupported, match="continue"):
            fast_prefill(weights, embeds, at, prompt, method(), cache)


def test_a_budget_below_the_text_is_the_users_error(model: PreTrainedModel) -> None:
    with torch.no_grad(), pytest.raises(UsageError, match="text that must stay"):
        fast(model, prompt_of(model), method(budget=0.01))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
@pytest.mark.parametrize("sparse", [SPARSE, SparseConfig(enabled=False)], ids=["sparse", "dense"])
def test_half_precision_stays_close_to_stock(sparse: SparseConfig) -> None:
    model = tiny_model(layers=LAYERS).to(torch.bfloat16)
    prompts = prompt_of(model, frames=40)
    with torch.no_grad(), attach(model, method(sparse=sparse), layout=prompts.layouts) as attached:
        want, _ = stock(attached, prompts)
        got, _ = fast(model, prompts, method(sparse=sparse))
    assert (got - want).float().norm() < 0.03 * want.float().norm()


def test_pieces_of_the_mlp_change_nothing(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        want, _ = fast(model, prompt_of(model), method())
        monkeypatch.setattr("purekv_cli.runtime.fast_layer._MLP_ROWS", 7)
        got, _ = fast(model, prompt_of(model), method())
    torch.testing.assert_close(got, want)
