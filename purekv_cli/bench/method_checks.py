"""Whole models: pruning against masking, our engines against stock transformers.

A tiny random model in float32 must say the same tokens; the timed model, whose dtype is coarser, is held to stock's
logits.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from purekv_cli.bench import engines
from purekv_cli.bench.gate import FILE, OURS, PRUNED, distance, held
from purekv_cli.bench.masked import masked_logits, masks
from purekv_cli.bench.problem import Problem, synthetic
from purekv_cli.bench.result import Check
from purekv_cli.bench.shapes import build
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig, Propagation, SparseConfig
from purekv_cli.method.pattern import build as build_pattern
from purekv_cli.method.pattern import content_change
from purekv_cli.runtime.answering import text_positions
from purekv_cli.runtime.embed import embed_tokens
from purekv_cli.runtime.vision import tower_features
from purekv_cli.runtime.vision_weights import read_tower

LOGITS = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 2e-2}  # relative, of the whole vector
_TOKENS = 8
_SHARPER = 6.0  # times the tiny model's queries and keys, so that what is pruned shows


def method_checks(device: torch.device, policies: tuple[str, ...]) -> Iterator[Check]:
    """Pruned = masked, and the same tokens without pruning, on a tiny model in float32."""
    model = build("tiny", device, torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "visual" not in name and name.endswith(("q_proj.weight", "k_proj.weight")):
                parameter.mul_(_SHARPER)
    problem = synthetic(model, "gate", steps=4, grid=(6, 8))
    dense = MethodConfig(policy="dense", budget=Budget("fraction", 1.0), sparse=SparseConfig(enabled=False))
    ours = engines.ours(model)

    def same_tokens() -> float:
        expected = _tokens(engines.Stock(model), problem, dense)
        got = _tokens(ours, problem, dense)
        if expected != got:
            raise ValueError(f"stock transformers says {expected}, {ours.name} {got}")
        return 0.0

    yield held("vision tower, ours = stock", FILE, 1e-3, partial(_towers, model))
    yield held("greedy tokens, dense engine = stock", OURS, 0.0, same_tokens)
    for policy in policies:
        if policy == "dense":
            continue
        whole = replace(dense, policy=policy, budget=Budget("fraction", 0.5))
        compare = _pruned_equals_masked(model, ours, problem, whole)
        yield held(f"pruned = masked, {policy}", PRUNED, 1e-3, compare)
        sparse = replace(whole, sparse=SparseConfig(min_tokens=1, tile=(3, 4), recent=1))
        compare = _pruned_equals_masked(model, ours, problem, sparse)
        yield held(f"pruned = masked, {policy} with sparse attention", PRUNED, 1e-3, compare)
        if not ours.propagates:
            continue
        flowing = replace(whole, propagate=Propagation(2, 0.5))
        compare = _pruned_equals_masked(model, ours, problem, flowing)
        yield held(f"pruned = masked, {policy} with propagation", frozenset({"propagated"}), 1e-3, compare)


def model_check(model: PreTrainedModel, problems: Sequence[Problem], dense: MethodConfig) -> Check:
    """The timed model's logits after a dense prefill, ours against stock's, over a few prompts.

    A deep model in half precision magnifies every rounding, so the yardstick is stock itself: ours may differ from it
    by no more than stock does when only its attention kernel is another one, and half as much again.
    """
    stock, ours = engines.Stock(model), engines.ours(model)
    within, name = LOGITS.get(model.dtype, 1e-3), f"logits at {problems[0].tokens} tokens, dense engine against stock"
    with torch.inference_mode():
        try:
            expected = [stock.prefill(problem, dense).logits for problem in problems]
        except (MemoryError, torch.OutOfMemoryError):
            return Check(name, False, "stock runs out of memory: nothing to compare with", OURS)
        if model.device.type == "cuda" and model.dtype != torch.float32:
            with suppress(RuntimeError), sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # it may not be here
                within = max(within, 1.5 * _apart([stock.prefill(p, dense).logits for p in problems], expected))

    def compare() -> float:
        return _apart([ours.prefill(problem, dense).logits for problem in problems], expected)

    return held(name, OURS, within, compare)


def _apart(got: Sequence[Tensor], true: Sequence[Tensor]) -> float:
    """Euclidean distance of all vectors together, relative to the true ones' length."""
    found, meant = torch.cat(list(got)).float(), torch.cat(list(true)).float()
    return float((found - meant).norm() / meant.norm())


def _pruned_equals_masked(
    model: PreTrainedModel, ours: engines.Engine, problem: Problem, config: MethodConfig
) -> Callable[[], float]:
    def compare() -> float:
        read = ours.prefill(problem, config)
        first = read.logits.clone()
        kept = [places.clone() for places in ours.kept(read)]
        ours.start(read, _TOKENS)
        tokens = ours.decode(read, _TOKENS - 1)
        if all(places.shape[-1] >= problem.tokens for places in kept):
            raise ValueError("nothing was pruned")
        at = text_positions(problem.positions, problem.tokens, problem.next_position, _TOKENS)
        embeds = torch.cat([problem.embeds, embed_tokens(model, torch.tensor([tokens]))], 1)
        positions = torch.cat([problem.positions, at], -1)
        flows = None if config.propagate is None else config.propagate.layer
        pattern = None
        if read.sparse:
            layout = problem.layout
            pattern = build_pattern(layout, config.sparse, content_change(problem.video, layout.grid)).dense_mask()
        seen = masks(kept, problem.tokens, embeds.shape[1], flows, pattern)
        logits = masked_logits(model, embeds, positions, seen, _TOKENS + 1)[:-1]
        expected = logits.argmax(-1).tolist()
        if tokens != expected:
            raise ValueError(f"the masked model says {expected}, {ours.name} {tokens}")
        return distance(first, logits[:1])

    return compare


def _towers(model: PreTrainedModel) -> float:
    """Two clips of different size through both towers."""
    grids = torch.tensor([[2, 12, 16], [1, 6, 10]], device=model.device)
    random = torch.Generator().manual_seed(0)
    patches = torch.randn(int(grids.prod(1).sum()), 3 * 2 * 14 * 14, generator=random).to(model.device)
    stock: Any = model.get_video_features
    out = stock(pixel_values_videos=patches, video_grid_thw=grids)
    found = getattr(out, "pooler_output", out)
    true = found if isinstance(found, Tensor) else torch.cat(list(found))
    return distance(tower_features(read_tower(model), patches, grids), true)


def _tokens(engine: engines.Engine, problem: Problem, config: MethodConfig) -> list[int]:
    read = engine.prefill(problem, config)
    engine.start(read, _TOKENS)
    return engine.decode(read, _TOKENS - 1)
