"""The fast prefill against the stock path, step by step, and propagation against the model with a mask.

Prompts are token embeddings without a vision tower, so that all families, their positions and layouts are compared on
what the decoder does.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from purekv_cli.errors import UsageError
from purekv_cli.kernels.sparse_prefill.backends import tried
from purekv_cli.method.budget import Budget, layer_entries
from purekv_cli.method.config import MethodConfig, Propagation, SparseConfig
from purekv_cli.method.layout import VideoLayout
from purekv_cli.method.pattern import build, content_change
from purekv_cli.runtime.attach import Attached, attach
from purekv_cli.runtime.cache import CompactCache
from purekv_cli.runtime.fast_prefill import fast_prefill, uses_sparse
from purekv_cli.runtime.metrics import KVMeter, StageClock
from purekv_cli.runtime.prompt import Prompt
from purekv_cli.runtime.weights import Unsupported, read_weights
from tests.runtime.masked import gone_from, masked_logits
from tests.runtime.tiny import DEVICE, TEXT_FAMILIES, VIDEO_FAMILIES, Clip, batch, clip, positions, tiny_model

LAYERS, STEPS, TOLERANCE = 4, 5, 1e-5
SPARSE = SparseConfig(min_tokens=8, tile=(2, 2))
POLICIES = ("purekv", "purekv-paper", "random", "dense")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Query tiles of few rows, so that the pattern of a small prompt leaves out keys."""
    monkeypatch.setattr("purekv_cli.method.pattern.ROWS", 4)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model(layers=LAYERS)


@pytest.fixture(scope="module")
def families() -> dict[str, PreTrainedModel]:
    return {family: tiny_model(family, LAYERS) for family in (*VIDEO_FAMILIES, *TEXT_FAMILIES)}


def method(policy: str = "purekv", budget: float = 0.6, **dials: Any) -> MethodConfig:
    settings: dict[str, Any] = {"score_layers": (0, 2), "sparse": SparseConfig(enabled=False)} | dials
    return MethodConfig(policy=policy, budget=Budget("fraction", budget), **settings)


def prompt_of(model: PreTrainedModel, cut: int = 0, **dials: Any) -> Clip:
    """Text, a video, a question; without the last `cut` tokens."""
    whole = clip(model, **({"frames": 8, "height": 84, "width": 112} | dials))
    ids = whole.inputs["input_ids"][:, : whole.length - cut]
    layout = VideoLayout(ids.shape[1], whole.layouts[0].video, whole.layouts[0].grid)
    return Clip({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, [layout], whole.seconds)


def angles(model: PreTrainedModel, prompts: Clip, length: int) -> Tensor:
    """Rotary positions of the prompt and what follows."""
    at = positions(model, prompts, length)
    return torch.arange(length, device=DEVICE)[None] if at is None else at


def embedded(model: PreTrainedModel, ids: Tensor) -> Tensor:
    return model.get_input_embeddings()(ids)


def stock(attached: Attached, prompts: Clip) -> tuple[Tensor, CompactCache]:
    cache = attached.new_cache(Prompt.of_layouts(prompts.layouts, DEVICE))
    embeds = embedded(attached.model, prompts.inputs["input_ids"])
    at = angles(attached.model, prompts, prompts.length)
    out = attached.decoder(inputs_embeds=embeds, position_ids=at, past_key_values=cache, use_cache=True)
    return out.last_hidden_state[:, -1:], cache


def fast(model: PreTrainedModel, prompts: Clip, config: MethodConfig, **given: Any) -> tuple[Tensor, CompactCache]:
    prompt = Prompt.of_layouts(prompts.layouts, DEVICE)
    cache = CompactCache(len(model.get_decoder().layers))
    cache.prompt = prompt
    embeds = embedded(model, prompts.inputs["input_ids"])
    at = angles(model, prompts, prompts.length)
    return fast_prefill(read_weights(model), embeds, at, prompt, config, cache, **given), cache


def decode(attached: Attached, prompts: Clip, hidden: Tensor, cache: CompactCache, words: list[int]) -> Tensor:
    """Logits after the prompt and after every one of `words`, [1, 1 + words, vocabulary], through the stock path."""
    head, at = attached.model.get_output_embeddings(), angles(attached.model, prompts, prompts.length + len(words))
    logits = [head(hidden)]
    for step, word in enumerate(words):
        out = attached.decoder(
            inputs_embeds=embedded(attached.model, torch.tensor([[word]], device=DEVICE)),
            position_ids=at[..., prompts.length + step : prompts.length + step + 1],
            past_key_values=cache,
            use_cache=True,
        )
        logits.append(head(out.last_hidden_state))
    return torch.cat(logits, 1)


def compare(model: PreTrainedModel, prompts: Clip, config: MethodConfig) -> CompactCache:
    """Prefill on both paths, decode on both caches; returns the fast one as it was after prefill."""
    words = [40, 41, 42, 43, 44][:STEPS]
    with torch.no_grad(), attach(model, config, layout=prompts.layouts) as attached:
        hidden, slow_cache = stock(attached, prompts)
        got, fast_cache = fast(model, prompts, config)
        for ours, theirs in zip(fast_cache.kept, slow_cache.kept, strict=True):
            assert torch.equal(ours, theirs)
        assert fast_cache.get_seq_length() == slow_cache.get_seq_length() == prompts.length
        assert fast_cache.kv_bytes() == slow_cache.kv_bytes()
        kept = fast(model, prompts, config)[1]
        want = decode(attached, prompts, hidden, slow_cache, words)
        have = decode(attached, prompts, got, fast_cache, words)
    torch.testing.assert_close(have, want, atol=TOLERANCE, rtol=0)
    return kept


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
