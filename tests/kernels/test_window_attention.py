"""Windowed attention against its definition in float64: ragged windows, odd sizes, both implementations."""

from itertools import pairwise

import pytest
import torch

from purekv_cli.kernels import allow
from purekv_cli.kernels.window_attention import dispatch, explain, reference, window_attention
from tests.kernels.devices import interpreted

pytest.importorskip("triton")
with interpreted():
    from purekv_cli.kernels.window_attention import triton as fast

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# (head size, heads, first token of every window and the end, steps): the first one is Qwen2.5-VL's head
SHAPES = [
    (80, 1, [0, 64, 65, 80], 1),
    (16, 2, [0, 63, 127], 2),
    (20, 3, [0, 4, 8, 12, 13], 3),
    (128, 1, [0, 60, 61], 1),
    (2, 1, [0, 1], 5),
]


@pytest.fixture(autouse=True)
def _interpreter():
    with interpreted():
        yield


def problem(dim: int, heads: int, starts: list[int], steps: int, dtype: torch.dtype = torch.float32) -> tuple:
    generator = torch.Generator().manual_seed(dim)
    size = starts[-1]
    qkv = torch.randn(steps * size, 3 * heads * dim, generator=generator).to(DEVICE, dtype)
    angles = (torch.rand(size, dim // 2, generator=generator) * 9).repeat(1, 2).to(DEVICE)
    longest = max(b - a for a, b in pairwise(starts))
    begin = torch.tensor(starts, dtype=torch.int32, device=DEVICE)
    return qkv, angles.cos(), angles.sin(), begin, longest, heads, dim**-0.5


def by_definition(qkv, cos, sin, starts, longest, heads, scaling) -> torch.Tensor:
    """Window by window, head by head, in float64; q and k are rounded after the rotation as the input is."""
    size, dim = cos.shape
    out = torch.zeros(len(qkv), heads * dim, dtype=torch.float64, device=qkv.device)
    for first in range(0, len(qkv), size):
        for a, b in pairwise(starts.tolist()):
            rows = slice(first + a, first + b)
            for head in range(heads):
                q, k, v = (
                    qkv[rows, (part * heads + head) * dim : (part * heads + head + 1) * dim] for part in range(3)
                )
                q, k = (turned(x, cos[a:b], sin[a:b]).to(qkv.dtype).double() for x in (q, k))
                out[rows, head * dim : (head + 1) * dim] = (q @ k.T * scaling).softmax(-1) @ v.double()
    return out


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Pairs (d, d + D / 2) turned as complex numbers."""
    half = x.shape[1] // 2
    pairs = torch.complex(x[:, :half].double(), x[:, half:].double())
    pairs = pairs * torch.complex(cos[:, :half].double(), sin[:, :half].double())
    return torch.cat([pairs.real, pairs.imag], 1)


@pytest.mark.parametrize("module", [reference, fast], ids=["reference", "triton"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_window_attends_to_itself_only(module, shape):
    given = problem(*shape)
    got = module.window_attention(*given)
    torch.testing.assert_close(got.double(), by_definition(*given), atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("module", [reference, fast], ids=["reference", "triton"])
@pytest.mark.parametrize("shape", [SHAPES[0], (80, 1, [0, 100, 101], 1)], ids=str)
def test_half_precision_is_rounded_like_the_input(module, shape):
    given = problem(*shape, dtype=torch.float16)
    got = module.window_attention(*given)
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.double(), by_definition(*given), atol=2e-3, rtol=2e-3)


def test_without_a_gpu_the_reference_runs_and_says_why(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    dispatch.tried.cache_clear()
    assert explain("cpu", torch.float32) == (False, "runs on CUDA only")
    dispatch.tried.cache_clear()


def test_the_plain_kernel_can_be_asked_for():
    allow("reference")
    try:
        given = problem(*SHAPES[2])
        assert dispatch.choose(given[0], 5, 3) is reference.window_attention
        assert torch.equal(window_attention(*given), reference.window_attention(*given))
    finally:
        allow("auto")


def test_the_kernel_passes_its_gate():
    dispatch.tried.cache_clear()
    try:
        assert dispatch.tried(torch.device(DEVICE), torch.float32, 80, 2) is None
    finally:
        dispatch.tried.cache_clear()


def test_a_window_too_long_for_one_block_goes_to_the_reference():
    given = problem(16, 1, [0, 130], 1)
    assert dispatch.choose(given[0], 130, 1) is reference.window_attention
    assert dispatch.choose(given[0], 65, 1) is reference.window_attention  # float32 takes twice the room
    assert dispatch.choose(given[0], 64, 1) is fast.window_attention
    torch.testing.assert_close(window_attention(*given).double(), by_definition(*given), atol=3e-6, rtol=1e-5)
