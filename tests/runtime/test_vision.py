"""The own tower computes what transformers' does, in one go, in chunks, and while frames are still coming."""

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from purekv_cli.models.base import Inputs
from purekv_cli.models.geometry import ModelGeometry
from purekv_cli.models.preprocess import PixelScale, preprocess
from purekv_cli.runtime.embed import video_features
from purekv_cli.runtime.vision import explain, tower_features
from purekv_cli.runtime.vision_stream import StreamingEmbedder, decode_and_embed
from purekv_cli.runtime.vision_weights import read_tower
from purekv_cli.runtime.weights import Unsupported
from purekv_cli.video.decode import decode
from purekv_cli.video.probe import probe
from purekv_cli.video.sample import SampleSpec, sample
from tests.clips import Recipe, make
from tests.runtime.tiny import DEVICE, clip, tiny_model

# [T, rows, columns] in patches of clips in one call; windows are 8 x 8 patches
GRIDS = [
    [[1, 2, 2]],
    [[2, 8, 8]],
    [[3, 6, 10]],
    [[1, 18, 20], [2, 8, 6], [1, 2, 34]],
]


# Float32 rounding. On a GPU products of other sizes, and other kernels, sum in other orders.
ROUNDING = {"cpu": 1e-6, "cuda": 1e-5}[DEVICE.type]


def same(ours: torch.Tensor, theirs: torch.Tensor, units: float = 1) -> None:
    torch.testing.assert_close(ours, theirs, atol=units * ROUNDING, rtol=units * ROUNDING)


class Holder:
    """What stands for a model: transformers keep their tower in `visual`."""

    def __init__(self, tower: nn.Module) -> None:
        self.visual = tower


def holder(mlp: int = 37, full: tuple[int, ...] = (1,), depth: int = 3, heads: int = 2) -> Holder:
    """A random tower whose attention and MLP both matter."""
    torch.manual_seed(0)
    config = Qwen2_5_VLVisionConfig(
        hidden_size=16 * heads,
        intermediate_size=mlp,
        out_hidden_size=48,
        depth=depth,
        num_heads=heads,
        window_size=112,
        fullatt_block_indexes=list(full),
    )
    tower = Qwen2_5_VisionTransformerPretrainedModel(config).eval().to(DEVICE)
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if parameter.dim() > 1:
                scale = 1.5 if "qkv" in name else 1.0
                parameter.normal_(0, scale * parameter[0].numel() ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return Holder(tower)


def patches(grids: list[list[int]], seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    grid = torch.tensor(grids, device=DEVICE)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(int(grid.prod(1).sum()), 1176, generator=generator).to(DEVICE), grid


@pytest.mark.parametrize("grids", GRIDS, ids=str)
@pytest.mark.parametrize("full", [(), (1,), (0, 1, 2)], ids=str)
def test_features_are_the_stock_towers(grids, full):
    model = holder(full=full)
    pixels, grid = patches(grids)
    with torch.no_grad():
        stock = model.visual(pixels, grid).pooler_output
    ours = tower_features(read_tower(model), pixels, grid)
    assert stock.std() > 0.1
    same(ours, stock, units=10)


@pytest.mark.parametrize("chunk", [1, 60, 121, 10**9])
def test_chunks_do_not_show(chunk):
    tower = read_tower(holder())
    pixels, grid = patches([[5, 6, 10], [2, 4, 4]])
    whole = tower_features(tower, pixels, grid)
    same(tower_features(tower, pixels, grid, chunk=chunk), whole)


@pytest.mark.parametrize("mlp", [1, 37, 64])
def test_padding_adds_nothing_to_what_the_model_computes(mlp):
    model = holder(mlp)
    pixels, grid = patches([[2, 6, 10]])
    before = {name: value.clone() for name, value in model.visual.state_dict().items()}
    with torch.no_grad():
        stock = model.visual(pixels, grid).pooler_output
        tower = read_tower(model)
        after = model.visual(pixels, grid).pooler_output
    assert tower.blocks[0].down.shape[1] == 64
    same(after, stock)
    now = model.visual.state_dict()
    assert now.keys() == before.keys()
    assert all(torch.equal(now[name], before[name]) for name in before)


def test_reading_twice_copies_nothing_and_a_cast_model_is_read_anew():
    model = holder()
    tower = read_tower(model)
    assert read_tower(model) is tower
    model.visual.to(torch.bfloat16)
    again = read_tower(model)
    assert again.dtype == torch.bfloat16
    assert again.blocks[0].gate_up.data_ptr() == model.visual.blocks[0].mlp.gate_proj.weight.data_ptr()


def test_half_precision_is_no_further_from_the_truth_than_the_stock_tower():
    model = holder(mlp=100, depth=6, heads=4)
    model.visual.to(torch.bfloat16)
    model.visual.rotary_pos_emb.inv_freq = model.visual.rotary_pos_emb.original_inv_freq.float()
    model.visual.to(torch.float32)
    pixels, grid = patches([[2, 18, 20]])
    pixels = pixels.bfloat16().float()
    with torch.no_grad():
        truth = model.visual(pixels, grid).pooler_output
        frequencies = model.visual.rotary_pos_emb.inv_freq
        model.visual.to(torch.bfloat16)
        model.visual.rotary_pos_emb.inv_freq = frequencies
        stock = model.visual(pixels.bfloat16(), grid).pooler_output.float()
    ours = tower_features(read_tower(model), pixels, grid).float()
    assert (ours - truth).norm() <= 1.05 * (stock - truth).norm()


def test_other_towers_are_named_and_run_as_before():
    model = tiny_model("qwen2_vl")
    prompts = clip(model)
    inputs = inputs_of(prompts)
    with torch.no_grad():
        given = {name: inputs.features[name] for name in ("pixel_values_videos", "video_grid_thw")}
        stock = model.get_video_features(**given).pooler_output
        assert torch.equal(video_features(model, inputs), torch.cat(list(stock)))
    usable, why = explain(model)
    assert not usable
    assert "Qwen2VisionTransformerPretrainedModel, not Qwen2.5-VL's" in why
    assert explain(tiny_model("llama")) == (False, "its vision tower is none, not Qwen2.5-VL's")


def test_the_model_family_it_is_made_for_uses_it():
    model = tiny_model()
    inputs = inputs_of(clip(model))
    with torch.no_grad():
        given = {name: inputs.features[name] for name in ("pixel_values_videos", "video_grid_thw")}
        stock = torch.cat(list(model.get_video_features(**given).pooler_output))
    assert explain(model) == (True, "1 blocks, 1 with full attention")
    same(video_features(model, inputs), stock, units=10)


def test_features_that_are_there_are_taken():
    model = tiny_model()
    inputs = inputs_of(clip(model))
    known = torch.randn(36, 64)
    inputs = replace(inputs, features={"video_features": known})
    assert video_features(model, inputs) is known


@pytest.mark.parametrize("part", ["mlp.down_proj", "attn.qkv"])
def test_quantised_parts_are_refused(part):
    model = holder()
    owner, name = part.split(".")
    setattr(getattr(model.visual.blocks[2], owner), name, nn.Sequential(nn.Linear(2, 2)).to(DEVICE))
    with pytest.raises(Unsupported, match="no plain linear layers"):
        read_tower(model)


def frames(count: int, height: int = 84, width: int = 140) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def one_shot(model: Holder, pixels: np.ndarray) -> torch.Tensor:
    given, grid = preprocess(pixels, pixels.shape[1:3], ModelGeometry(1, 1, 1, 8), PixelScale(), DEVICE)
    return tower_features(read_tower(model), given, grid)


@pytest.mark.parametrize("chunk", [1, 120, 10**9])
@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_frames_as_they_come_give_the_same_features(count, chunk):
    model, pixels = holder(), frames(count)
    coming = np.zeros_like(pixels)
    stream = StreamingEmbedder(model, ModelGeometry(1, 1, 1, 8), PixelScale(), chunk=chunk)
    for index in range(count):
        coming[index] = pixels[index]
        stream.ready(coming, index, index + 1)
    same(stream.finish(count), one_shot(model, pixels))


def test_frames_may_come_in_any_order_from_several_threads():
    model, pixels = holder(), frames(14)
    stream = StreamingEmbedder(model, ModelGeometry(1, 1, 1, 8), PixelScale(), chunk=120)
    parts = [(9, 14), (3, 6), (0, 3), (6, 9)]
    threads = [threading.Thread(target=stream.ready, args=(pixels, *part)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    same(stream.finish(14), one_shot(model, pixels))


@pytest.mark.parametrize("count", [1, 4, 5])
def test_a_clip_that_ends_early_has_only_the_features_of_what_it_gave(count):
    model, pixels = holder(), frames(8)
    stream = StreamingEmbedder(model, ModelGeometry(1, 1, 1, 8), PixelScale())
    stream.ready(pixels, 0, count)
    expected = one_shot(model, pixels[:count])
    got = stream.finish(count)
    assert got.shape == expected.shape
    same(got, expected)


def test_a_clip_that_begins_anew_is_embedded_anew() -> None:
    """What a damaged clip gave before its decoder started over is forgotten, whatever it was."""
    model, pixels = holder(), frames(7)
    stream = StreamingEmbedder(model, ModelGeometry(1, 1, 1, 8), PixelScale(), chunk=1)
    coming = frames(7)[::-1].copy()
    for index in (0, 1, 2, 5, 6):
        stream.ready(coming, index, index + 1)
    for index in range(5):
        coming[index] = pixels[index]
        stream.ready(coming, index, index + 1)
    same(stream.finish(5), one_shot(model, pixels[:5]))


def test_a_clip_is_embedded_while_it_is_decoded(tmp_path: Path) -> None:
    path = make(tmp_path, Recipe(size=(84, 112), frames=20, b_frames=2)).path
    info, model = probe(path), holder()
    plan = sample(info, SampleSpec(mode="uniform", frames=7))
    stream = StreamingEmbedder(model, ModelGeometry(1, 1, 1, 8), PixelScale(), chunk=1)
    pixels = decode(info, plan, (56, 84), on_pixels=stream.ready).pixels
    same(stream.finish(len(pixels)), one_shot(model, pixels))


def test_decoding_hands_over_features_where_a_gpu_can_work_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, model = probe(make(tmp_path, Recipe(frames=20)).path), tiny_model()
    adapter = SimpleNamespace(model=model, geometry=ModelGeometry(1, 1, 1, 8), scale=PixelScale())
    plan = sample(info, SampleSpec(mode="uniform", frames=5))
    frames, features = decode_and_embed(adapter, info, plan, (56, 84))
    assert (features is None) == (DEVICE.type == "cpu")
    monkeypatch.setattr(StreamingEmbedder, "device", torch.device("cuda"))
    again, features = decode_and_embed(adapter, info, plan, (56, 84))
    np.testing.assert_array_equal(again.pixels, frames.pixels)
    same(features, one_shot(model.model, frames.pixels))
    adapter.model = tiny_model("qwen2_vl")
    frames, features = decode_and_embed(adapter, info, plan, (56, 84))
    assert (len(frames.pixels), features) == (5, None)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="streams exist on a GPU")
def test_clip_after_clip_uses_the_same_memory() -> None:
    model, pixels, reserved = holder(), frames(8), []
    for _ in range(3):
        stream = StreamingEmbedder(model, ModelGeometry(1, 1, 1, 8), PixelScale())
        stream.ready(pixels, 0, 8)
        stream.finish(8)
        torch.cuda.synchronize()
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[2] == reserved[0]


def test_nothing_given_is_an_error():
    stream = StreamingEmbedder(holder(), ModelGeometry(1, 1, 1, 8), PixelScale())
    with pytest.raises(ValueError, match="no frame"):
        stream.finish(0)


def inputs_of(prompts) -> Inputs:
    tensors = prompts.inputs
    return Inputs(
        input_ids=tensors["input_ids"],
        attention_mask=tensors["attention_mask"],
        position_ids=tensors["input_ids"],
        next_position=0,
        layout=prompts.layouts[0],
        features={name: value for name, value in tensors.items() if name not in ("input_ids", "attention_mask")},
    )
