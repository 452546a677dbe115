"""Kernels at the length that will be timed, where they may choose other tiles or other kernels than for small problems.

Random states of the model's own heads; some rows are computed again in float32 from the keys that they may read.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from purekv_cli.bench.gate import OURS, PRUNED, distance, held
from purekv_cli.bench.kernel_checks import TOLERANCE
from purekv_cli.bench.problem import Problem
from purekv_cli.bench.result import Check
from purekv_cli.bench.work import Sizes
from purekv_cli.kernels import attention, attention_mass, sparse_prefill
from purekv_cli.method.config import SparseConfig
from purekv_cli.method.pattern import build, content_change
from purekv_cli.method.runs import RunList

ROWS = 48  # looked at again, spread over the prompt


def long_checks(problem: Problem, sizes: Sizes, sparse: SparseConfig | None) -> Iterator[Check]:
    """Attention, sparse attention and attention mass at this length.

    Args:
        sparse: the pattern that rows of this length use; None: they attend densely.
    """
    device, dtype, within = problem.embeds.device, problem.embeds.dtype, TOLERANCE.get(problem.embeds.dtype, 1e-3)
    random = torch.Generator(device).manual_seed(0)
    shapes = [(1, heads, problem.tokens, sizes.head_dim) for heads in (sizes.heads, sizes.kv_heads, sizes.kv_heads)]
    query, key, value = (torch.randn(s, generator=random, device=device, dtype=dtype) for s in shapes)
    at = f"at {problem.tokens} tokens"
    yield held(f"kernel attention {at}", OURS, within, partial(_attention, query, key, value))
    yield held(f"kernel attention mass {at}", PRUNED, within, partial(_mass, query, key))
    if sparse is not None:
        runs = build(problem.layout, sparse, content_change(problem.video, problem.layout.grid))
        yield held(f"kernel sparse prefill {at}", PRUNED, within, partial(_sparse, query, key, value, runs))


def _attention(query: Tensor, key: Tensor, value: Tensor) -> float:
    out, _ = attention.attention(query, key, value, query.shape[3] ** -0.5, causal=True)
    rows = _sample(query)
    every = torch.arange(key.shape[2], device=key.device)
    true = [_row(query, key, value, row, every[: row + 1]) for row in rows]
    return distance(out[:, :, rows], torch.stack(true, 2))


def _sparse(query: Tensor, key: Tensor, value: Tensor, runs: RunList) -> float:
    runs = runs.to(query.device)
    moved_key, moved_value = (t.index_select(2, runs.key_order) for t in (key, value))
    out, _ = sparse_prefill.sparse_prefill(query, moved_key, moved_value, runs, query.shape[3] ** -0.5)
    rows = _sample(query)
    places = runs.query_order.argsort()[rows]  # where they lie among the tiles
    tiles = torch.searchsorted(runs.row_start, places, right=True) - 1
    true = []
    for row, tile in zip(rows, tiles.tolist(), strict=True):
        keys = runs.key_order[runs.keys(tile, tile + 1)]
        true.append(_row(query, key, value, row, keys[keys <= row]))
    return distance(out[:, :, rows], torch.stack(true, 2))


def _mass(query: Tensor, key: Tensor) -> float:
    """The largest share of any of the last rows, every head pooled."""
    count, length = min(64, query.shape[2]), key.shape[2]
    scaling = query.shape[3] ** -0.5
    rows = torch.arange(length - count, length, device=key.device)
    got = attention_mass.row_mass(query[:, :, -count:], key, scaling, rows, pool_heads=True)
    groups = query.shape[1] // key.shape[1]
    best = torch.zeros(length, device=key.device)
    future = torch.arange(length, device=key.device) > rows[:, None]
    for head in range(query.shape[1]):
        scores = query[0, head, -count:].float() @ key[0, head // groups].float().T * scaling
        best = torch.maximum(best, scores.masked_fill(future, float("-inf")).softmax(-1).amax(0))
    return distance(got.flatten(), best)


def _sample(query: Tensor) -> list[int]:
    """Rows of the prompt, the first and the last among them."""
    return sorted(set(torch.linspace(0, query.shape[2] - 1, ROWS).long().tolist()))


def _row(query: Tensor, key: Tensor, value: Tensor, row: int, keys: Tensor) -> Tensor:
    """[1, Hq, D] of one row over the keys at those positions, in float32."""
    groups = query.shape[1] // key.shape[1]
    seen = key[0, :, keys].float(), value[0, :, keys].float()
    asked = query[0, :, row].float().unflatten(0, (-1, groups))  # [Hkv, G, D]
    weights = (asked @ seen[0].mT * query.shape[3] ** -0.5).softmax(-1)
    return (weights @ seen[1]).flatten(0, 1)[None]
