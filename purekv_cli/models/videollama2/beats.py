"""BEATs, an audio encoder: patches of a mel filter bank through a transformer with gated relative positions.

    x <- norm(x + gelu(grouped convolution(x)))
    every layer: x <- norm(a x + attention(x)), x <- norm(a x + mlp(x)), a = (2 layers)^(1/4)
    attention adds to the scores of head h: gate_h(x_i) * bias_h(j - i)
    gate_h(x) = u (v c_h - 1) + 2, u and v the sigmoids of two sums of four linear features of the head's query

Modules are named as the released weights are. Source: BEATs (arXiv 2212.09058), gates after WavLM (arXiv 2110.13900).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

MEAN, STD = 15.41663, 6.55582  # of filter banks, in training
FARTHEST = 800  # distance of the last bucket of relative positions


@dataclass(frozen=True, slots=True)
class BeatsSizes:
    """Of one encoder; those of the released one are in its weights."""

    layers: int
    width: int
    heads: int
    inner: int  # of the MLP
    embed: int  # of a patch
    patch: int  # side of a patch, in frames and in mel bins
    buckets: int  # of relative positions
    kernel: int  # of the positional convolution
    groups: int

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> "BeatsSizes":
        """From the shapes of an encoder's weights; KeyError where one is missing."""
        layers = 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("encoder.layers."))
        width, inner = shapes["encoder.layers.0.fc2.weight"]
        weights = (f"encoder.pos_conv.0.{name}" for name in ("weight_v", "parametrizations.weight.original1"))
        _, per_group, kernel = next(shapes[name] for name in weights if name in shapes)
        buckets, heads = shapes["encoder.layers.0.self_attn.relative_attention_bias.weight"]
        embed, _, patch, _ = shapes["patch_embedding.weight"]
        return cls(layers, width, heads, inner, embed, patch, buckets, kernel, width // per_group)

    def tokens(self, frames: int, bins: int) -> int:
        """Of a filter bank."""
        return (frames // self.patch) * (bins // self.patch)


class Attention(nn.Module):
    """Self-attention of one layer; the first layer's table of relative positions serves all."""

    def __init__(self, sizes: BeatsSizes, first: bool) -> None:
        super().__init__()
        width, self.heads, self.buckets = sizes.width, sizes.heads, sizes.buckets
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.grep_linear = nn.Linear(width // self.heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))
        if first:
            self.relative_attention_bias = nn.Embedding(self.buckets, self.heads)

    def bias(self, length: int) -> Tensor:
        """Of every pair of places by their distance, [heads, length, length]."""
        place = torch.arange(length, device=self.grep_a.device)
        table: Tensor = self.relative_attention_bias(buckets(place - place[:, None], self.buckets))
        return table.permute(2, 0, 1)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        query, key, value = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        u, v = self.grep_linear(query).unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, -1)
        gate = u * (v * self.grep_a - 1) + 2  # [B, heads, N, 1]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=(gate * bias).to(query.dtype))
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class Layer(nn.Module):
    """One layer, with norms after the sums."""

    def __init__(self, sizes: BeatsSizes, first: bool) -> None:
        super().__init__()
        self.self_attn = Attention(sizes, first)
        self.self_attn_layer_norm = nn.LayerNorm(sizes.width)
        self.fc1 = nn.Linear(sizes.width, sizes.inner)
        self.fc2 = nn.Linear(sizes.inner, sizes.width)
        self.final_layer_norm = nn.LayerNorm(sizes.width)
        self.residual = (2 * sizes.layers) ** 0.25

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.self_attn_layer_norm(x * self.residual + self.self_attn(x, bias))
        out: Tensor = self.final_layer_norm(x * self.residual + self.fc2(F.gelu(self.fc1(x))))
        return out


class Encoder(nn.Module):
    """The transformer: [B, N, width] to the same."""

    def __init__(self, sizes: BeatsSizes) -> None:
        super().__init__()
        convolution = nn.Conv1d(sizes.width, sizes.width, sizes.kernel, padding=sizes.kernel // 2, groups=sizes.groups)
        self.pos_conv = nn.ModuleList([weight_norm(convolution, dim=2)])
        self.layer_norm = nn.LayerNorm(sizes.width)
        self.layers = nn.ModuleList([Layer(sizes, index == 0) for index in range(sizes.layers)])

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        placed = self.pos_conv[0](x.mT)[:, :, :length]  # an even kernel gives one place too many
        x = self.layer_norm(x + F.gelu(placed).mT)
        bias = self.layers[0].self_attn.bias(length)  # type: ignore[union-attr,operator]
        for layer in self.layers:
            x = layer(x, bias)
        return x


class Beats(nn.Module):
    """Filter banks [B, frames, bins] to features [B, N, width], the bins of a step one after the other."""

    def __init__(self, sizes: BeatsSizes) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(1, sizes.embed, sizes.patch, stride=sizes.patch, bias=False)
        self.layer_norm = nn.LayerNorm(sizes.embed)
        self.post_extract_proj = nn.Linear(sizes.embed, sizes.width) if sizes.embed != sizes.width else nn.Identity()
        self.encoder = Encoder(sizes)

    def forward(self, bank: Tensor) -> Tensor:
        bank = ((bank - MEAN) / (2 * STD)).to(self.layer_norm.weight.dtype)
        patches = self.patch_embedding(bank[:, None]).flatten(2).mT
        features: Tensor = self.encoder(self.post_extract_proj(self.layer_norm(patches)))
        return features


def buckets(distance: Tensor, count: int) -> Tensor:
    """Number of the bucket of every distance: half for each direction, near ones exact, far ones logarithmic."""
    half = count // 2
    exact = half // 2
    away = distance.abs()
    far = exact + (torch.log(away.float() / exact) / math.log(FARTHEST / exact) * (half - exact)).long()
    return (distance > 0) * half + torch.where(away < exact, away, far.clamp(max=half - 1))
