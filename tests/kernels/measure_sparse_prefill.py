"""Sparse prefill on a GPU against cuDNN's dense causal attention: milliseconds, and the share of its rate.

    python -m tests.kernels.measure_sparse_prefill [--tokens 32768 131072]

28 query heads, 4 KV heads, head size 128, bf16. Efficiency is dense ms * density / ms: 1 if every pair that is read
costs what a pair costs the dense kernel.
"""

from argparse import ArgumentParser
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
    """Median time of a call, the L2 cache emptied before each; the first are left out: an idle GPU speeds up slowly."""
    for _ in range(max(2, times // 2)):
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


def kernels() -> dict[str, Callable]:
    """What runs here, by name."""
    names = [name for name, usable, _ in explain("cuda", torch.bfloat16) if usable and name != "reference"]
    return {name: import_module(f"purekv_cli.kernels.sparse_prefill.{name}").sparse_prefill for name in names}


def measure(tokens: int, height: int, width: int, runnable: dict[str, Callable]) -> None:
    """One line per kernel for frames of height x width tokens."""
    frames = round((tokens - BEFORE - AFTER) / (height * width))
    video = frames * height * width
    layout = VideoLayout(BEFORE + video + AFTER, torch.arange(BEFORE, BEFORE + video), (frames, height, width))
    content = torch.rand(video, generator=torch.Generator().manual_seed(1)).cuda()
    query, key, value = (
        torch.randn(1, heads, layout.length, 128, dtype=torch.bfloat16, device="cuda") for heads in (28, 4, 4)
    )
    times = 20 if tokens < 100_000 else 7
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        dense = milliseconds(
            lambda: F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True), times
        )
    runs = build(layout, SparseConfig(), content)
    first = None
    for name, kernel in runnable.items():
        out = kernel(query, key, value, runs, 128**-0.5, False)[0]
        first = out if first is None else first
        torch.testing.assert_close(out, first, atol=2e-2, rtol=2e-2)
        sparse = milliseconds(lambda run=kernel: run(query, key, value, runs, 128**-0.5, False), times)
        share = dense * runs.density / sparse
        print(
            f"{height * width} x {frames} = {layout.length} tokens, {name}: {sparse:.3f} ms, dense {dense:.3f} ms,"
            f" density {runs.density:.3f}, efficiency {share:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("--tokens", type=int, nargs="+", default=[8_192, 16_384, 32_768, 131_072])
    asked = parser.parse_args()
    runnable = kernels()
    for tokens in asked.tokens:
        for height, width in ((17, 23), (16, 32)):
            measure(tokens, height, width, runnable)
