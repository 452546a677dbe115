"""What engines hand to policies beyond attention, and tokens that end inside the model, against a plain decoder."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from purekv_cli.errors import UsageError
from purekv_cli.method.policies import POLICIES, Observation
from purekv_cli.method.policies.expected_attention import ExpectedAttention
from purekv_cli.method.policies.snapkv import SnapKV
from purekv_cli.runtime.attach import attach
from tests.runtime.fast_path import SPARSE, angles, compare, embedded, fast, method, prompt_of, stock
from tests.runtime.tiny import DEVICE, TEXT_FAMILIES, VIDEO_FAMILIES, Clip, batch, clip, tiny_model

LAYERS, WINDOW = 5, 4
NEW = ("expected-attention", "criticalkv", "fastv", "fastkv")
FAMILIES = (*VIDEO_FAMILIES, *TEXT_FAMILIES)


@pytest.fixture(scope="module")
def families() -> dict[str, PreTrainedModel]:
    return {family: tiny_model(family, LAYERS) for family in FAMILIES}


@pytest.fixture(autouse=True)
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SnapKV, "window", WINDOW)


@pytest.mark.parametrize("budget", [0.45, 0.6])
@pytest.mark.parametrize("policy", NEW)
@pytest.mark.parametrize("family", FAMILIES)
def test_both_paths_keep_the_same(
    families: dict[str, PreTrainedModel], family: str, policy: str, budget: float
) -> None:
    compare(families[family], prompt_of(families[family]), method(policy, budget=budget))


@pytest.mark.parametrize("policy", ["expected-attention", "criticalkv"])
def test_both_paths_keep_the_same_with_sparse_attention(
    families: dict[str, PreTrainedModel], policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("purekv_cli.method.pattern.ROWS", 4)
    compare(families["qwen2_5_vl"], prompt_of(families["qwen2_5_vl"]), method(policy, sparse=SPARSE))


class Spy(ExpectedAttention):
    seen: list[Observation]

    def score(self, seen: Observation) -> Tensor:
        self.seen.append(seen)
        return super().score(seen)


@pytest.mark.parametrize("way", ["stock", "fast"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llama"])
def test_queries_turned_back_are_the_projections_own(
    families: dict[str, PreTrainedModel], family: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, config = families[family], method("expected-attention")
    prompts = prompt_of(model)
    Spy.seen = []
    monkeypatch.setitem(POLICIES, "expected-attention", Spy)
    plain: list[Tensor] = []
    name = "q_norm" if family == "qwen3_vl" else "q_proj"
    layers = model.get_decoder().layers
    hooks = [getattr(e.self_attn, name).register_forward_hook(lambda *given: plain.append(given[2])) for e in layers]
    with torch.no_grad(), attach(model, config, layout=prompts.layouts) as attached:
        stock(attached, prompts)
        if way == "fast":
            Spy.seen.clear()
            fast(model, prompts, config)
    for hook in hooks:
        hook.remove()
    for layer, seen, states in zip(layers, Spy.seen, plain, strict=True):
        assert seen.rotary is not None
        assert seen.query is not None
        cos, sin = seen.rotary.cos[:, None], seen.rotary.sin[:, None]
        half = seen.query.shape[-1] // 2
        back = seen.query * cos + torch.cat([seen.query[..., half:], -seen.query[..., :half]], -1) * sin
        torch.testing.assert_close(back, states.view(1, prompts.length, 4, 16).transpose(1, 2), atol=1e-4, rtol=0)
        assert seen.out is not None
        assert torch.equal(seen.out, layer.self_attn.o_proj.weight)
        ahead = seen.rotary.ahead(3)[0]
        places = angles(model, prompts, prompts.length + 3)[..., -3:]
        rotary = model.get_decoder().rotary_emb
        want = rotary(embedded(model, torch.tensor([[1]], device=DEVICE)), places[1:] if places.dim() == 3 else places)
        torch.testing.assert_close(ahead, want[0])


@torch.no_grad()
def plain_decoder(model: PreTrainedModel, prompts: Clip, policy: str, share: int) -> tuple[Tensor, Tensor]:
    """The last hidden state and the tokens that flow: layer by layer in float64, the others cut out of the states."""
    decoder = model.get_decoder()
    x = embedded(model, prompts.inputs["input_ids"])[0].double()
    at = angles(model, prompts, prompts.length)
    cos, sin = (angle[0].double() for angle in decoder.rotary_emb(x[None, :1], at[1:] if at.dim() == 3 else at))
    ends = {"fastv": 1, "fastkv": LAYERS // 2 - 1}[policy]
    rows = torch.arange(prompts.length, device=DEVICE)
    text = [j for j in rows.tolist() if j not in set(prompts.layouts[0].video.tolist())]

    def norm(states: Tensor, weight: Tensor) -> Tensor:
        return states * (states.square().mean(-1, keepdim=True) + decoder.config.rms_norm_eps).rsqrt() * weight.double()

    def linear(states: Tensor, module: torch.nn.Linear) -> Tensor:
        return F.linear(states, module.weight.double(), None if module.bias is None else module.bias.double())

    for index, layer in enumerate(decoder.layers):
        own, normed = layer.self_attn, norm(x, layer.input_layernorm.weight)
        heads = [linear(normed, part).unflatten(-1, (-1, 16)).transpose(0, 1) for part in (own.q_proj, own.k_proj)]
        q, k = (h * cos + torch.cat([-h[..., 8:], h[..., :8]], -1) * sin for h in heads)
        v = linear(normed, own.v_proj).unflatten(-1, (-1, 16)).transpose(0, 1).repeat_interleave(2, 0)
        scores = q @ k.repeat_interleave(2, 0).mT / 4
        attention = scores.masked_fill(torch.ones_like(scores[0], dtype=torch.bool).triu(1), -torch.inf).softmax(-1)
        x = x + linear((attention @ v).transpose(0, 1).flatten(1), own.o_proj)
        normed = norm(x, layer.post_attention_layernorm.weight)
        x = x + linear(
            F.silu(linear(normed, layer.mlp.gate_proj)) * linear(normed, layer.mlp.up_proj), layer.mlp.down_proj
        )
        if index == ends:
            if policy == "fastv":
                votes, must = attention[:, -1].mean(0), {*text, prompts.length - 1}
            else:
                mean = attention[:, -WINDOW:, :-WINDOW].mean((0, 1))
                votes = F.avg_pool1d(mean[None], 5, stride=1, padding=2)[0]
                must = {*text, *range(prompts.length - WINDOW, prompts.length)}
            rest = sorted(set(rows.tolist()) - must, key=lambda j: -float(votes[j]))
            rows = torch.tensor(sorted(must | set(rest[: share - len(must)])), device=DEVICE)
            x, cos, sin = x[rows], cos[rows], sin[rows]
    return norm(x[-1], decoder.norm.weight), rows


@pytest.mark.parametrize("policy", ["fastv", "fastkv"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llama"])
@pytest.mark.parametrize("cut", [0, 8])
def test_above_the_layer_the_others_are_gone(
    families: dict[str, PreTrainedModel], family: str, policy: str, cut: int
) -> None:
    """Also where the prompt ends with its video (`cut`), whose last token flows."""
    model = families[family]
    prompts, config = prompt_of(model, cut=cut, frames=10), method(policy, budget=0.35)
    share = int(0.35 * prompts.length)
    want, rows = plain_decoder(model, prompts, policy, share)
    with torch.no_grad(), attach(model, config, layout=prompts.layouts) as attached:
        for hidden, cache in (stock(attached, prompts), fast(model, prompts, config)):
            torch.testing.assert_close(hidden[0, 0].double(), want, atol=1e-4, rtol=0)
            for places in cache.kept[-2:]:
                assert places.shape[-1] == share
                assert set(places.flatten().tolist()) == set(rows.tolist())
    assert not torch.allclose(want, plain_decoder(model, prompts, policy, prompts.length)[0], atol=1e-2)


@pytest.mark.parametrize("policy", NEW)
def test_a_prompt_beside_a_longer_one_gets_the_same(families: dict[str, PreTrainedModel], policy: str) -> None:
    model = families["qwen2_5_vl"]
    alone, other = clip(model, frames=4, question=3, seed=2), clip(model, question=9, seed=1)
    pad = other.length - alone.length
    with torch.no_grad(), attach(model, method(policy)) as attached:
        model.generate(**alone.inputs, max_new_tokens=1)
        single = attached.kept
        model.generate(**batch(alone, other).inputs, max_new_tokens=1)
        for mine, both in zip(single, attached.kept, strict=True):
            for head in range(2):
                row = both[0, head]
                assert (row[row >= 0] - pad).tolist() == mine[0, head].tolist()


def test_chunks_are_refused_where_tokens_end_inside_the_model(families: dict[str, PreTrainedModel]) -> None:
    model = families["llama"]
    prompts = prompt_of(model)
    with (
        torch.no_grad(),
        attach(model, replace(method("fastv"), chunk=9), layout=prompts.layouts) as attached,
        pytest.raises(UsageError, match="in chunks"),
    ):
        stock(attached, prompts)
