"""Sparse prefill on a GPU against cuDNN's dense causal attention: milliseconds, and the share of its rate.

    python -m tests.kernels.measure_sparse_prefill

28 query heads, 4 KV heads, head size 128, bf16. Efficiency is dense ms * density / ms: 1 if every pair that is read
costs what a pair costs the dense kernel.
"""

from collections.abc import Callable
from importlib import import_module
from statistics import median

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from purekv_cli.kernels.sparse_prefill import explain
from purekv_cli.method.config import SparseConfig
from purekv_cli.method.layout import VideoLayout
from purekv_cli.method.pattern import build

BEFORE, AFTER = 14, 40  # text tokens around the video


def milliseconds(run: Callable[[], object], times: int) -> float:
    """Median time of a call, the L2 cache emptied before each."""
    run()
    dirty = torch.empty(256 << 20, dtype=torch.int8, device="cuda")
    spans = []
    for _ in range(times):
        dirty.zero_()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        spans.append((start, stop))
    torch.cuda.synchronize()
    return median(start.elapsed_time(stop) for start, stop in spans)


def measure(tokens: int, height: int, width: int, names: list[str]) -> None:
    """One line per kernel for frames of height x width tokens."""
    frames = round((tokens - BEFORE - AFTER) / (height * width))
    video = frames * height * width
    layout = VideoLayout(BEFORE + video + AFTER, torch.arange(BEFORE, BEFORE + video), (frames, height, width))
    content = torch.rand(video, generator=torch.Generator().manual_seed(1)).cuda()
    query, key, value = (torch.randn(1, heads, layout.length, 128).to("cuda", torch.bfloat16) for heads in (28, 4, 4))
    times = 10 if tokens < 100_000 else 5
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        dense = milliseconds(
            lambda: F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True), times
        )
    runs = build(layout, SparseConfig(), content)
    for name in names:
        kernel = import_module(f"purekv_cli.kernels.sparse_prefill.{name}").sparse_prefill
        sparse = milliseconds(lambda run=kernel: run(query, key, value, runs, 128**-0.5, False), times)
        share = dense * runs.density / sparse
        print(
            f"{height * width} x {frames} = {layout.length} tokens, {name}: {sparse:.3f} ms, dense {dense:.3f} ms,"
            f" density {runs.density:.3f}, efficiency {share:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    kernels = [name for name, usable, _ in explain("cuda", torch.bfloat16) if usable and name != "reference"]
    for tokens in (8_192, 16_384, 32_768, 131_072):
        for height, width in ((17, 23), (16, 32)):
            measure(tokens, height, width, kernels)
