"""Kernels against their references: every one that a timed row may call, on the device and in the dtype it will run in.

The truth is the plain reference in float32 on the same numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from purekv_cli.bench.gate import OURS, PRUNED, distance, held
from purekv_cli.bench.result import Check
from purekv_cli.kernels import attention, attention_mass, compact, decode, fused, sparse_prefill
from purekv_cli.kernels.attention import reference as attention_reference
from purekv_cli.kernels.attention_mass import reference as mass_reference
from purekv_cli.kernels.compact import reference as compact_reference
from purekv_cli.kernels.fused import reference as fused_reference
from purekv_cli.kernels.sparse_prefill import reference as sparse_reference
from purekv_cli.method import pattern
from purekv_cli.method.config import SparseConfig
from purekv_cli.method.layout import VideoLayout

TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 2e-2}  # relative to the largest value


@dataclass(frozen=True, slots=True)
class _Small:
    """One small problem: 7 query heads a KV head, head size 128, text, 3 x 8 x 9 video tokens, text."""

    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float
    layout: VideoLayout

    @classmethod
    def on(cls, device: torch.device, dtype: torch.dtype) -> "_Small":
        before, grid, after = 11, (3, 8, 9), 30
        video = torch.arange(before, before + 216)
        layout = VideoLayout(before + 216 + after, video, grid)
        generator = torch.Generator().manual_seed(0)
        shapes = ((1, 14, layout.length, 128), (1, 2, layout.length, 128), (1, 2, layout.length, 128))
        states = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)
        query, key, value = states
        return cls(query, key, value, 128**-0.5, layout)

    def exact(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.query.float(), self.key.float(), self.value.float()


def kernel_checks(device: torch.device, dtype: torch.dtype) -> Iterator[Check]:
    """Every kernel that a timed row may call."""
    small, within = _Small.on(device, dtype), TOLERANCE.get(dtype, 1e-3)
    for name, covers, compare in (
        ("attention", OURS, _attention),
        ("sparse prefill", PRUNED, _sparse),
        ("attention mass", PRUNED, _mass),
        ("compact", PRUNED, _compact),
        ("norms and SwiGLU", OURS, _pointwise),
        ("rotary", OURS, _rotary),
        ("decoding", OURS, _decode),
    ):
        yield held(f"kernel {name}", covers, within, partial(compare, small))


def _attention(small: _Small) -> float:
    out, lse = attention.attention(small.query, small.key, small.value, small.scaling, causal=True, need_lse=True)
    true, true_lse = attention_reference.attention(*small.exact(), small.scaling, causal=True)
    return max(distance(out, true), distance(lse, true_lse))


def _sparse(small: _Small) -> float:
    runs = pattern.build(small.layout, SparseConfig(tile=(4, 4), recent=1)).to(small.query.device)
    key, value = (t.index_select(2, runs.key_order) for t in (small.key, small.value))
    out, _ = sparse_prefill.sparse_prefill(small.query, key, value, runs, small.scaling)
    query, key, value = (t.float() for t in (small.query, key, value))
    true, _ = sparse_reference.sparse_prefill(query, key, value, runs, small.scaling, need_lse=False)
    return distance(out, true)


def _mass(small: _Small) -> float:
    count = 24
    rows = torch.arange(small.layout.length - count, small.layout.length, device=small.query.device)
    query, key, _ = small.exact()
    got = attention_mass.row_mass(small.query[:, :, -count:], small.key, small.scaling, rows, pool_heads=True)
    true = mass_reference.row_mass(
        query[:, :, -count:], key, small.scaling, rows, None, None, "max", pool_heads=True, running=None
    )
    return distance(got, true)


def _compact(small: _Small) -> float:
    places = torch.tensor([[[0, 3, 99, 256, -1], [5, 6, 7, 8, 9]]], device=small.key.device)
    got = compact.compact(small.key, small.value, places)
    true = compact_reference.compact(small.key, small.value, places, None)
    return max(distance(a, b) for a, b in zip(got, true, strict=True))


def _pointwise(small: _Small) -> float:
    x = small.query[0].flatten(0, 1)
    weight, epsilon = small.key[0, 0, 0].abs(), 1e-6
    summed = fused.add_rms_norm(x, x.flip(0), weight, epsilon)
    got = (fused.rms_norm(x, weight, epsilon), *summed, fused.silu_mul(x))
    wide = fused_reference.add_rms_norm(x.float(), x.flip(0).float(), weight.float(), epsilon)
    norm = fused_reference.rms_norm(x.float(), weight.float(), epsilon)
    true = (norm, *wide, fused_reference.silu_mul(x.float()))
    return max(distance(a, b) for a, b in zip(got, true, strict=True))


def _rotary(small: _Small) -> float:
    qkv = torch.cat([small.query, small.key, small.value], 1)[0].transpose(0, 1).flatten(1)
    angle = torch.arange(len(qkv), device=qkv.device)[:, None] / torch.arange(1, 129, device=qkv.device)
    heads, kv_heads = small.query.shape[1], small.key.shape[1]
    got = fused.rotate(qkv, angle.cos(), angle.sin(), heads, kv_heads)
    true = fused_reference.rotate(
        qkv.float(), angle.cos(), angle.sin(), heads, kv_heads, key_rows=None, q_norm=None, k_norm=None, epsilon=1e-6
    )
    return max(distance(a, b) for a, b in zip(got, true, strict=True))


def _decode(small: _Small) -> float:
    """One step's products and its attention over lists of unlike lengths, at 7 query heads a KV head."""
    where = small.query.device, small.query.dtype, small.query.shape[3], 7
    kernels, _ = decode.choose(*where)
    return max(decode.difference(kernels, *where))
