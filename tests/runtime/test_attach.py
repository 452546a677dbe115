"""`attach`: right positions, stock results when nothing is pruned, active pruning, and a model left as it was."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from purekv_cli.errors import UsageError
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import VideoLayout
from purekv_cli.runtime.attach import attach
from purekv_cli.runtime.cache import CompactLayer
from tests.runtime.tiny import DEVICE, TEXT_FAMILIES, VIDEO_FAMILIES, batch, clip, positions, tiny_model

LAYERS = 4


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model(layers=LAYERS)


def method(policy: str = "purekv", fraction: float = 0.5, **dials: Any) -> MethodConfig:
    return MethodConfig(policy=policy, budget=Budget("fraction", fraction), score_layers=(1, 2), **dials)


def generate(model: PreTrainedModel, inputs: dict[str, Tensor], **dials: Any) -> Any:
    settings = {"max_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    return model.generate(**inputs, **(settings | dials))


@pytest.mark.parametrize("family", [*VIDEO_FAMILIES, *TEXT_FAMILIES])
@pytest.mark.parametrize("padded", [False, True])
def test_unpruned_is_stock_attention(family: str, padded: bool) -> None:
    """Given the same positions, which transformers 5 gets wrong by itself."""
    model = tiny_model(family, LAYERS)
    prompts = batch(clip(model, seed=1), clip(model, question=3, seed=2)) if padded else clip(model)
    layout = prompts.layouts if family in TEXT_FAMILIES else None
    with attach(model, method("dense"), layout=layout):
        ours = generate(model, prompts.inputs)
    at = positions(model, prompts, prompts.length)
    stock = generate(model, dict(prompts.inputs) | ({} if at is None else {"position_ids": at}))
    assert torch.equal(ours.sequences, stock.sequences)
    difference = (torch.stack(ours.logits) - torch.stack(stock.logits)).abs().max().item()
    assert difference < (2e-6 if DEVICE.type == "cpu" else 1e-5)


def spied(model: PreTrainedModel) -> tuple[list[Tensor], Any]:
    """The rotary positions of every step's last token."""
    seen: list[Tensor] = []

    def look(_: Any, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        at = given.get("position_ids", args[1] if len(args) > 1 else None)
        seen.append(at[:, 0, -1].cpu())

    return seen, model.get_decoder().rotary_emb.register_forward_pre_hook(look, with_kwargs=True)


@pytest.mark.parametrize("loop", ["generate", "forward"])
def test_decoding_goes_on_at_the_golden_position(model: PreTrainedModel, loop: str) -> None:
    """64 frames of 4 x 5 tokens, one second apart (2 positions): 4 tokens and a marker before, 8 after the video.

    Video time runs from 5 to 5 + 63 * 2 = 131, so the text after it is at 132 to 139 and decoding starts at 140.
    """
    prompts = clip(model, frames=128, height=112, width=140, question=7)
    assert prompts.layouts[0].grid == (64, 4, 5)
    seen, hook = spied(model)
    with attach(model, method()), torch.no_grad():
        if loop == "generate":
            generate(model, prompts.inputs, max_new_tokens=3)
        else:
            out = model(**prompts.inputs)
            for _ in range(2):
                token = out.logits[:, -1:].argmax(-1)
                out = model(input_ids=token, past_key_values=out.past_key_values)
    hook.remove()
    assert [at.tolist() for at in seen] == [[139] * 3, [140] * 3, [141] * 3]


@pytest.mark.parametrize("loop", ["generate", "forward"])
def test_positions_without_spacing(loop: str) -> None:
    """The published case: 64 frames of 4 x 5 tokens at one position each; text ends at 77, not at 19."""
    model = tiny_model("qwen2_vl", 1)
    prompts = clip(model, frames=128, height=112, width=140, question=7)
    seen, hook = spied(model)
    with attach(model, method()), torch.no_grad():
        if loop == "generate":
            generate(model, prompts.inputs, max_new_tokens=2)
        else:
            out = model(**prompts.inputs)
            model(input_ids=out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values)
    hook.remove()
    before, frames, after = 5, 64, 8
    assert seen[0].tolist() == [before + frames + after - 1] * 3
    assert seen[1].tolist() == [before + frames + after] * 3


def test_fractional_seconds_are_not_cut_off(model: PreTrainedModel) -> None:
    prompts = clip(model, frames=16, seconds=0.75)
    seen, hook = spied(model)
    with attach(model, method()):
        generate(model, prompts.inputs, max_new_tokens=1)
    hook.remove()
    at = positions(model, prompts, prompts.length)
    assert at is not None
    assert seen[0].tolist() == at[1:, 0, -1].tolist() == [5 + int(7 * 1.5) + 8] * 3


@pytest.mark.parametrize("policy", ["purekv", "purekv-paper", "random"])
def test_at_most_one_full_layer_lives_beside_the_compact_cache(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Live tensors are counted each time a layer hands its K and V over."""
    model = tiny_model(layers=6)
    prompts = clip(model, frames=12)
    length = prompts.length
    alive: list[weakref.ref[Tensor]] = []
    counts = []
    original = CompactLayer.update

    def update(self: CompactLayer, key: Tensor, value: Tensor, *args: Any, **given: Any) -> tuple[Tensor, Tensor]:
        if key.shape[-2] == length:
            alive.extend((weakref.ref(key), weakref.ref(value)))
            gc.collect()
            storages = {t.untyped_storage().data_ptr() for ref in alive if (t := ref()) is not None}
            counts.append(len(storages))
        return original(self, key, value, *args, **given)

    monkeypatch.setattr(CompactLayer, "update", update)
    with attach(model, method(policy, fraction=0.4)) as attached:
        generate(model, prompts.inputs)
    waiting = 1 if policy == "purekv-paper" else 0  # layer 0 waits for the first score layer, 1
    assert len(counts) == 6
    assert max(counts) <= 2 * (1 + waiting)
    one = 2 * 2 * 16 * 4 * length
    kept = sum(places.shape[-1] for places in attached.kept) / 6 / length
    assert attached.kv_bytes_peak <= one * (1 + waiting) + 6 * one * kept


def test_the_meter_agrees_with_the_tensors(model: PreTrainedModel) -> None:
    prompts = clip(model, frames=12)
    one = 2 * 2 * 16 * 4
    kept = int(0.5 * prompts.length)
    with attach(model, method()) as attached, torch.no_grad():
        model(**prompts.inputs)
        assert attached.kv_bytes == LAYERS * one * kept
        # the most: the last layer's own K and V, its compact copy, and those of the layers below
        assert attached.kv_bytes_peak == LAYERS * one * kept + one * prompts.length
    with attach(model, method("dense")) as attached, torch.no_grad():
        model(**prompts.inputs)
        assert attached.kv_bytes == attached.kv_bytes_peak == LAYERS * one * prompts.length


def test_chunks_bound_the_memory_of_a_policy_that_does_not_wait(model: PreTrainedModel) -> None:
    prompts = clip(model, frames=40)
    with attach(model, method("random", 0.3, chunk=24)) as attached, torch.no_grad():
        model(**prompts.inputs)
        assert attached.kv_bytes_peak < 0.75 * LAYERS * 2 * 2 * 16 * 4 * prompts.length


def test_chunks_of_a_policy_that_waits_hold_the_full_cache_but_no_copy(model: PreTrainedModel) -> None:
    prompts = clip(model, frames=40)
    full = LAYERS * 2 * 2 * 16 * 4 * prompts.length
    with attach(model, method("purekv", 0.3, chunk=24)) as attached, torch.no_grad():
        model(**prompts.inputs)
        assert full <= attached.kv_bytes_peak < 1.15 * full
        assert attached.kv_bytes < 0.31 * full


def footprint(model: PreTrainedModel) -> tuple[Any, ...]:
    decoder = model.get_decoder()
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    own = [sorted(vars(m)) for m in (model, decoder, *(layer.self_attn for layer in decoder.layers))]
    deltas = getattr(model.base_model, "rope_deltas", None)
    names = (model.config._attn_implementation, decoder.config._attn_implementation)
    return hooks, own, deltas, names, model.forward, decoder.forward, model.generate


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llama"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(family: str, fails: bool) -> None:
    model = tiny_model(family, LAYERS)
    prompts = clip(model)
    plain = generate(model, prompts.inputs).sequences
    if hasattr(model.base_model, "rope_deltas"):
        model.base_model.rope_deltas = None
    before = footprint(model)
    layout = prompts.layouts if family == "llama" else None
    try:
        with attach(model, method(), layout=layout):
            generate(model, prompts.inputs)
            assert footprint(model) != before
            if fails:
                raise LookupError
    except LookupError:
        pass
    assert footprint(model) == before
    assert torch.equal(generate(model, prompts.inputs).sequences, plain)


def test_an_error_inside_the_model_leaves_no_trace(model: PreTrainedModel) -> None:
    before = footprint(model)
    with pytest.raises(UsageError, match="text that must stay"), attach(model, method(fraction=0.1)):
        generate(model, clip(model).inputs)
    assert footprint(model)[:2] == before[:2]


def test_attaching_twice_is_refused(model: PreTrainedModel) -> None:
    with attach(model, method()), pytest.raises(UsageError, match="already attached"), attach(model, method()):
        pass
    with attach(model, method()):
        pass


def test_a_cache_of_the_callers_own_runs_dense(model: PreTrainedModel) -> None:
    prompts = clip(model)
    with attach(model, method()) as attached:
        out = generate(model, prompts.inputs, past_key_values=DynamicCache(config=model.config.text_config))
        assert out.past_key_values.get_seq_length() == prompts.length + 5
        assert attached.cache is None


def test_a_prompt_without_video_is_left_alone(model: PreTrainedModel) -> None:
    ids = torch.arange(20, 50, device=DEVICE)[None]
    plain = generate(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    with attach(model, method()) as attached:
        ours = generate(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    assert torch.equal(ours.sequences, plain.sequences)
    assert all(places.shape[-1] == 35 for places in attached.kept)


def test_two_prompts_one_after_the_other(model: PreTrainedModel) -> None:
    one, two = clip(model, seed=1), clip(model, frames=4, question=3, seed=2)
    with attach(model, method()):
        first = generate(model, one.inputs).sequences
        second = generate(model, two.inputs).sequences
        assert torch.equal(generate(model, one.inputs).sequences, first)
    with attach(model, method()):
        assert torch.equal(generate(model, two.inputs).sequences, second)


def test_conversations_that_take_turns(model: PreTrainedModel) -> None:
    """The second turn of one goes on at its own positions, whatever ran in between."""
    one, two = clip(model, seed=1), clip(model, frames=20, question=3, seed=2)

    def second(first: Any) -> list[Tensor]:
        ids = torch.nn.functional.pad(first.sequences, (0, 3), value=50)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return generate(model, inputs, past_key_values=first.past_key_values).logits

    with attach(model, method()):
        alone = second(generate(model, one.inputs))
        first = generate(model, one.inputs)
        assert model.model.rope_deltas.tolist() == [[first.past_key_values.prompt.delta.item()]]
        generate(model, two.inputs)
        mixed = second(first)
    assert torch.equal(torch.stack(alone), torch.stack(mixed))


def test_chunks_draw_their_own_lots(model: PreTrainedModel) -> None:
    prompts = clip(model, frames=40)
    with attach(model, method("random", chunk=30)) as attached, torch.no_grad():
        model(**prompts.inputs)
        places = attached.kept[0][0, 0]
    drawn = {tuple((places[(places >= low) & (places < low + 30)] - low).tolist()) for low in (30, 60, 90)}
    assert len(drawn) == 3


def test_a_layout_must_fit_the_prompt() -> None:
    model = tiny_model("llama", 1)
    prompts = clip(model)
    wrong = VideoLayout(prompts.length + 1, prompts.layouts[0].video, prompts.layouts[0].grid)
    with attach(model, method(), layout=wrong), pytest.raises(UsageError, match="do not describe"):
        generate(model, prompts.inputs)


def test_a_sliding_window_is_refused() -> None:
    model = tiny_model("mistral", 1)
    prompts = clip(model)
    for layer in model.get_decoder().layers:
        layer.self_attn.sliding_window = 8
    model.config.sliding_window = 8
    with attach(model, method(), layout=prompts.layouts), pytest.raises(UsageError, match="sliding window"):
        generate(model, prompts.inputs)


def test_four_dimensional_masks_are_refused(model: PreTrainedModel) -> None:
    prompts = clip(model)
    inputs = dict(prompts.inputs)
    inputs["attention_mask"] = torch.zeros(1, 1, prompts.length, prompts.length, device=DEVICE)
    at = positions(model, prompts, prompts.length)
    with attach(model, method()), pytest.raises(UsageError, match="four dimensions"), torch.no_grad():
        model(**inputs, position_ids=at)
