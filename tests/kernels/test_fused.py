"""Fused norms, SwiGLU and rotary: Triton against its plain twin, and the twin against the formula in float64."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from purekv_cli.kernels import allow, fused
from purekv_cli.kernels.fused import dispatch, reference
from tests.kernels.devices import on_each_device

pytest.importorskip("triton")
from purekv_cli.kernels.fused import triton as fast

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TRITON_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Relative: one unit in the last place. Triton's interpreter cuts bfloat16 off where a GPU rounds it: twice the error.
UNIT = {torch.float32: 2e-6, torch.bfloat16: 2**-7 if TRITON_DEVICE == "cuda" else 2**-6, torch.float16: 2**-10}
both = pytest.mark.parametrize("module", [reference, fast], ids=["reference", "triton"])
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def random(*shape: int, dtype: torch.dtype = torch.float32, device: str = TRITON_DEVICE, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def close(got: torch.Tensor, want: torch.Tensor, units: float = 1) -> None:
    """Within so many units in the last place of the got dtype."""
    assert got.shape == want.shape
    unit = units * UNIT[got.dtype]
    torch.testing.assert_close(got.double(), want.double(), atol=unit, rtol=unit)


@both
@dtypes
@pytest.mark.parametrize(("rows", "columns"), [(1, 8), (63, 80), (5, 129), (2, 3584), (0, 16)])
def test_norm_is_the_formula(module, dtype, rows, columns):
    x, weight = random(rows, columns, dtype=dtype), random(columns, dtype=dtype, seed=1)
    wide = x.double()
    want = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    close(module.rms_norm(x, weight, 1e-5), want, units=2)


@both
@dtypes
@pytest.mark.parametrize(("rows", "columns"), [(1, 8), (65, 80), (129, 48), (2, 3584)])
def test_adding_first_hands_over_the_rounded_sum(module, dtype, rows, columns):
    x, residual, weight = (random(rows, columns, dtype=dtype, seed=s) for s in range(3))
    normed, total = module.add_rms_norm(x, residual, weight[0], 1e-6)
    same(total, x + residual)
    close(normed, reference.rms_norm(total, weight[0], 1e-6))


@dtypes
def test_rows_of_a_wider_tensor_are_read_where_they_lie(dtype):
    wide = random(7, 100, dtype=dtype)
    x, weight = wide[:, 10:90], random(80, dtype=dtype, seed=1)
    close(fast.rms_norm(x, weight, 1e-6), reference.rms_norm(x, weight, 1e-6))
    close(fast.add_rms_norm(x, x, weight, 1e-6)[0], reference.add_rms_norm(x, x, weight, 1e-6)[0])


@both
@dtypes
@pytest.mark.parametrize(("rows", "columns"), [(1, 3), (63, 64), (5, 129), (2, 3420)])
def test_swiglu_is_the_formula(module, dtype, rows, columns):
    x = random(rows, 2 * columns, dtype=dtype)
    gate, up = x.double().chunk(2, -1)
    close(module.silu_mul(x), gate * torch.sigmoid(gate) * up, units=2)


def same(got: torch.Tensor, want: torch.Tensor) -> None:
    """Bit by bit, where the interpreter rounds as a GPU does."""
    if got.device.type == "cpu" and got.dtype == torch.bfloat16:
        close(got, want, units=2)
    else:
        assert torch.equal(got, want)


def turned(x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Every pair (i, i + D / 2) of x [n, heads, D] turned by its angle [n, D / 2]: complex multiplication."""
    low, high = x.double().chunk(2, -1)
    out = torch.complex(low, high) * torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat([out.real, out.imag], -1)


@both
@dtypes
@pytest.mark.parametrize(
    ("rows", "heads", "kv_heads", "dim"),
    [(1, 4, 2, 16), (63, 3, 3, 80), (65, 7, 1, 64), (17, 28, 4, 128), (5, 0, 2, 6)],
)
@pytest.mark.parametrize("moved", [False, True])
def test_rotary_is_a_rotation(module, dtype, rows, heads, kv_heads, dim, moved):
    qkv = random(rows, (heads + 2 * kv_heads) * dim, dtype=dtype)
    angle = random(rows, dim // 2, seed=1).double()
    cos, sin = (f(angle).repeat(1, 2).to(dtype) for f in (torch.cos, torch.sin))
    to = torch.randperm(rows, generator=torch.Generator().manual_seed(2)).to(TRITON_DEVICE) if moved else None
    query, key, value = module.rotate(qkv, cos, sin, heads, kv_heads, to, None, None, 1e-6)
    q, k, v = qkv.view(rows, -1, dim).split([heads, kv_heads, kv_heads], 1)
    close(query[0].transpose(0, 1), turned(q, angle), units=4)
    at = torch.arange(rows, device=TRITON_DEVICE) if to is None else to
    close(key[0][:, at].transpose(0, 1), turned(k, angle), units=4)
    assert torch.equal(value[0][:, at].transpose(0, 1), v)
    assert query.transpose(1, 2).is_contiguous()
    assert key.is_contiguous()
    assert value.is_contiguous()


@dtypes
@pytest.mark.parametrize("angles", [torch.float32, None])
@pytest.mark.parametrize("normed", [False, True])
def test_rotary_rounds_like_its_twin(dtype, angles, normed):
    """Half angles round every product, float32 angles only the result, as the models do."""
    qkv = random(33, 9 * 16, dtype=dtype)
    cos, sin = (random(33, 16, dtype=angles or dtype, seed=s) for s in (1, 2))
    norms = (random(16, dtype=dtype, seed=3), random(16, dtype=dtype, seed=4)) if normed else (None, None)
    for got, want in zip(
        fast.rotate(qkv, cos, sin, 5, 2, None, *norms, 1e-6),
        reference.rotate(qkv, cos, sin, 5, 2, None, *norms, 1e-6),
        strict=True,
    ):
        if dtype == torch.float32 or normed:
            close(got, want, units=2)
        else:
            same(got, want)


def test_heads_may_be_normed_each_by_itself():
    qkv, one = random(9, 3 * 16), torch.ones(9, 16)
    norm = random(16, seed=1)
    query, key, _ = reference.rotate(qkv.cpu(), one, one * 0, 1, 1, None, norm.cpu(), None, 1e-6)
    q, k, _ = qkv.cpu().view(9, 3, 16).unbind(1)
    close(query[0, 0], reference.rms_norm(q, norm.cpu(), 1e-6))
    assert torch.equal(key[0, 0], k)


@on_each_device
@dtypes
def test_the_gate_tries_the_kernels_once_and_says_why_not(device, dtype):
    usable, why = fused.explain(device, dtype)
    assert usable == (device == "cuda")
    assert why == ("agrees with the reference" if usable else "runs on CUDA only")


def test_interpreted_kernels_pass_the_gate():
    for got, want in zip(
        dispatch.samples(fast, TRITON_DEVICE, torch.float32),
        dispatch.samples(reference, TRITON_DEVICE, torch.float32),
        strict=True,
    ):
        close(got, want)


def test_reference_kernels_can_be_asked_for():
    allow("reference")
    try:
        assert dispatch.choose(random(1, 2)) is reference
    finally:
        allow("auto")


def test_public_functions_take_the_chosen_one():
    x = random(3, 48)
    assert torch.equal(fused.rms_norm(x, x[0], 1e-6), dispatch.choose(x).rms_norm(x, x[0], 1e-6))
    assert fused.silu_mul(x).shape == (3, 24)
    query, key, value = fused.rotate(x, x[:, :16], x[:, 16:32], 1, 1)
    assert query.shape == key.shape == value.shape == (1, 1, 3, 16)
    assert fused.add_rms_norm(x, x, x[0], 1e-6)[1].equal(x + x)
