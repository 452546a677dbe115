"""Compile what the first answer of Qwen2.5-VL-7B needs on an H200, without one: every kernel variant and its seconds.

    python -m tests.kernels.compile_first_answer [--list]

The trials run as they do at first use, then every kernel is called with tensors of the model's shapes that have no
memory. A driver stands in for CUDA's: it says sm_90 and launches nothing. --list: the variants, as JSON, not compiled.
"""

import json
import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget

from purekv_cli.kernels import decode
from purekv_cli.kernels.attention_mass import backends as of_mass
from purekv_cli.kernels.attention_mass import triton as masses
from purekv_cli.kernels.compact import backends as of_compact
from purekv_cli.kernels.compact.triton import compact as move
from purekv_cli.kernels.decode import products, sampling, split_attention
from purekv_cli.kernels.decode.lists import Lists
from purekv_cli.kernels.fused import dispatch as of_fused
from purekv_cli.kernels.fused import triton as elementwise
from purekv_cli.kernels.sparse_prefill import backends as of_sparse
from purekv_cli.kernels.sparse_prefill import hopper
from purekv_cli.kernels.window_attention.triton import window_attention as attend
from purekv_cli.method.config import SparseConfig
from purekv_cli.method.layout import VideoLayout
from purekv_cli.method.pattern import build

HALF, CPU = torch.bfloat16, torch.device("cpu")
VISION, TOKENS, FLOWING, QUESTION = 28_800, 23_094, 4_632, 42  # patches of a chunk, then tokens
DRIVER = SimpleNamespace(
    get_current_device=lambda: 0,
    get_current_stream=lambda device: 0,
    get_current_target=lambda: GPUTarget("cuda", 90, 32),
    launcher_cls=lambda source, metadata: lambda *given: None,
    utils=SimpleNamespace(
        load_binary=lambda *given: (1, 1, 0, 0, 1024), get_device_properties=lambda device: {"max_shared_mem": 232_448}
    ),
)


def none(*shape: int, dtype: torch.dtype = HALF) -> Tensor:
    """A tensor without memory."""
    return torch.empty(*shape, dtype=dtype, device="meta")


def whole(*shape: int) -> Tensor:
    return none(*shape, dtype=torch.int64)


def trials() -> None:
    """As at first use; what they compute is nonsense here."""
    of_fused.samples(elementwise, CPU, HALF)
    of_sparse._differs(of_sparse.BACKENDS[0], CPU, HALF, 128, 28, 4)
    of_mass._distance(CPU, HALF, 128, 28, 4, "few")
    of_compact._distance(CPU, HALF, 128, 4)
    decode.difference(decode.in_triton(), CPU, HALF, 128, 7)


def tower() -> None:
    angles = none(VISION, 80, dtype=torch.float32)
    x = none(VISION, 1280)
    elementwise.rms_norm(x, x[0], 1e-6)
    elementwise.add_rms_norm(x, x, x[0], 1e-6)
    elementwise.silu_mul(none(VISION, 2 * 3420))
    elementwise.rotate(none(VISION, 3840), angles, angles, 16, 16, None, None, None, 1e-6)
    for patches, windows in ((70, 3), (1440, 30)):  # of the trial, of a clip
        starts = none(windows + 1, dtype=torch.int32)
        attend(none(2 * patches, 3840), angles[:patches], angles[:patches], starts, 64, 16, 80**-0.5)


def prefill() -> None:
    for rows in (TOKENS, FLOWING, 1):
        x = none(rows, 3584)
        elementwise.rms_norm(x, x[0], 1e-6)
        elementwise.add_rms_norm(x, x, x[0], 1e-6)
        elementwise.silu_mul(none(rows, 2 * 18944))
    every, keys, queries = (28, 4), (0, 4), (28, 0)
    for rows, (heads, kv_heads), order in (
        (TOKENS, every, whole(TOKENS)),
        (TOKENS, keys, whole(TOKENS)),
        (QUESTION, queries, None),
        (FLOWING, every, None),
        (1, queries, None),
    ):
        qkv, angles = none(rows, (heads + 2 * kv_heads) * 128), none(rows, 128)
        elementwise.rotate(qkv, angles, angles, heads, kv_heads, order, None, None, 1e-6)
    video = 8 * 391
    layout = VideoLayout(14 + video + QUESTION, torch.arange(14, 14 + video), (8, 17, 23))
    query, key = (torch.zeros(1, heads, layout.length, 128, dtype=HALF) for heads in (28, 4))
    hopper.sparse_prefill(query, key, key, build(layout, SparseConfig(), torch.rand(video)), 0.1)
    for tokens, order in ((TOKENS, whole(TOKENS)), (FLOWING, None)):
        query, key = none(tokens, 28, 128).transpose(0, 1)[None, :, -QUESTION:], none(1, 4, tokens, 128)
        for before in (None, none(1, 1, tokens, dtype=torch.float32)):
            at = (whole(QUESTION), order, None)
            masses.row_mass(query, key, 0.1, *at, "max", pool_heads=True, running=before)
        move(key, key, whole(1, 1, 4619), order)


def token() -> None:
    kernels, hidden, one, norm = decode.in_triton(), none(1, 3584, dtype=torch.float32), whole(1), none(3584)
    kernels.embed(none(152064, 3584), whole(64, 1), one)
    kernels.norm_linear(hidden, norm, 1e-6, none(4608, 3584), none(4608))
    lists = Lists(none(20000, 128), none(20000, 128), whole(1, 4), whole(1, 4))
    kernels.attend(none(1, 4608), lists, one, none(1, 64, 128), none(1, 64, 128), None, 1e-6, 0.1)
    kernels.add_linear(hidden, none(1, 3584), none(3584, 3584))
    kernels.norm_gated(hidden, norm, 1e-6, none(2 * 18944, 3584))
    kernels.add_linear(hidden, none(1, 18944), none(3584, 18944))
    logits = kernels.logits(hidden, norm, 1e-6, none(152064, 3584))
    dials, done = none(1, 2, dtype=torch.float32), none(2, dtype=torch.int32)
    sampling.draw(logits, dials, one, one, whole(64, 1), done, greedy=True)


def main(only_list: bool) -> None:
    found: dict[str, list[Any]] = {}
    seen = set()
    part = ""

    def cached(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        if (fn.name, compile["key"]) not in seen:
            seen.add((fn.name, compile["key"]))
            found[part].append(fn.name)
        return only_list

    def compiled(*, src: Any, times: Any, **_: Any) -> None:
        found[part][-1] = (src.name, times.total / 1e6)

    triton.runtime.driver.set_active(DRIVER)  # type: ignore[arg-type]
    knobs.runtime.jit_cache_hook, knobs.compilation.listener = cached, compiled
    chained = {"CHAINED": True, "launch_pdl": True}
    with (
        patch.object(products, "chained", lambda device: chained),
        patch.object(split_attention, "chained", lambda device: chained),
        patch.object(sampling, "chained", lambda device: chained),
        patch.object(split_attention, "_cuts", lambda device, kv_heads: 64),
        patch.object(masses, "_multiprocessors", lambda device: 132),
    ):
        for step in (trials, tower, prefill, token):
            part = step.__name__
            found[part] = []
            step()
    if only_list:
        print(json.dumps(found))
        return
    for part, kernels in found.items():
        for name, seconds in kernels:
            print(f"{part:8} {name:20} {seconds:6.2f} s")
    seconds = [spent for kernels in found.values() for _, spent in kernels]
    print(f"{len(seconds)} variants, {sum(seconds):.1f} s")


if __name__ == "__main__":
    main("--list" in sys.argv)
