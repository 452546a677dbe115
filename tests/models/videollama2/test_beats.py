"""BEATs against its formulas in float64, one query, key and head at a time."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from purekv_cli.models.videollama2.beats import Beats, BeatsSizes, buckets

SIZES = BeatsSizes(layers=2, width=16, heads=2, inner=24, embed=12, patch=4, buckets=16, kernel=6, groups=4)


@pytest.fixture(scope="module")
def beats() -> Beats:
    torch.manual_seed(0)
    model = Beats(SIZES).double().eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return model


def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt() * weight + bias


def bucket_of(distance: int, count: int) -> int:
    half = count // 2
    exact = half // 2
    side = half if distance > 0 else 0
    away = abs(distance)
    if away < exact:
        return side + away
    far = exact + int(math.log(away / exact) / math.log(800 / exact) * (half - exact))
    return side + min(far, half - 1)


@torch.no_grad()
def by_the_formula(model: Beats, bank: Tensor) -> Tensor:
    """[N, width] of a bank [frames, bins]."""
    w = model.state_dict()
    bank = (bank - 15.41663) / (2 * 6.55582)
    x = torch.stack(
        [
            (w["patch_embedding.weight"][:, 0] * bank[i : i + 4, j : j + 4]).sum((1, 2))
            for i in range(0, bank.shape[0] - 3, 4)
            for j in range(0, bank.shape[1] - 3, 4)
        ]
    )
    x = norm(x, w["layer_norm.weight"], w["layer_norm.bias"])
    x = x @ w["post_extract_proj.weight"].T + w["post_extract_proj.bias"]
    count, width = x.shape
    gain, direction = (w[f"encoder.pos_conv.0.parametrizations.weight.original{i}"] for i in (0, 1))
    kernel = gain * direction / direction.square().sum((0, 1), keepdim=True).sqrt()
    placed = torch.zeros_like(x)
    for i in range(count):
        for channel in range(width):
            group = channel // 4
            for k in range(6):
                if 0 <= i + k - 3 < count:
                    placed[i, channel] += x[i + k - 3, group * 4 : group * 4 + 4] @ kernel[channel, :, k]
    placed = placed + w["encoder.pos_conv.0.bias"]
    x = x + placed * 0.5 * (1 + torch.erf(placed / 2**0.5))
    x = norm(x, w["encoder.layer_norm.weight"], w["encoder.layer_norm.bias"])
    table = w["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    for index in range(2):
        at = f"encoder.layers.{index}."
        q, k, v = (x @ w[f"{at}self_attn.{p}_proj.weight"].T + w[f"{at}self_attn.{p}_proj.bias"] for p in "qkv")
        mixed = torch.zeros_like(x)
        for head in range(2):
            part = slice(head * 8, head * 8 + 8)
            for i in range(count):
                linear = w[f"{at}self_attn.grep_linear.weight"] @ q[i, part] + w[f"{at}self_attn.grep_linear.bias"]
                gate_a, gate_b = linear[:4].sum().sigmoid(), linear[4:].sum().sigmoid()
                gate = gate_a * (gate_b * w[f"{at}self_attn.grep_a"][0, head, 0, 0] - 1) + 2
                scores = torch.stack(
                    [q[i, part] @ k[j, part] / 8**0.5 + gate * table[bucket_of(j - i, 16), head] for j in range(count)]
                )
                mixed[i, part] = scores.softmax(0) @ v[:, part]
        out = mixed @ w[f"{at}self_attn.out_proj.weight"].T + w[f"{at}self_attn.out_proj.bias"]
        x = norm(4**0.25 * x + out, w[f"{at}self_attn_layer_norm.weight"], w[f"{at}self_attn_layer_norm.bias"])
        inner = x @ w[f"{at}fc1.weight"].T + w[f"{at}fc1.bias"]
        inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
        out = inner @ w[f"{at}fc2.weight"].T + w[f"{at}fc2.bias"]
        x = norm(4**0.25 * x + out, w[f"{at}final_layer_norm.weight"], w[f"{at}final_layer_norm.bias"])
    return x


@pytest.mark.parametrize(("frames", "bins"), [(12, 8), (23, 11), (4, 4)])
def test_features_are_the_formulas(beats: Beats, frames: int, bins: int) -> None:
    bank = torch.randn(frames, bins, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 6 + 15
    with torch.no_grad():
        ours = beats(bank[None])[0]
    assert ours.shape == (SIZES.tokens(frames, bins), SIZES.width)
    torch.testing.assert_close(ours, by_the_formula(beats, bank), atol=1e-9, rtol=0)


def test_sizes_are_read_from_the_weights(beats: Beats) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in beats.state_dict().items()}
    assert BeatsSizes.of(shapes) == SIZES
    older = {name.replace("parametrizations.weight.original1", "weight_v"): shape for name, shape in shapes.items()}
    assert BeatsSizes.of(older) == SIZES


@pytest.mark.parametrize("count", [16, 320])
def test_buckets(count: int) -> None:
    distance = torch.arange(-1500, 1501)
    assert buckets(distance, count).tolist() == [bucket_of(int(d), count) for d in distance]


def test_thirty_seconds_are_1496_tokens() -> None:
    released = replace(SIZES, patch=16)
    assert released.tokens(2998, 128) == 1496
