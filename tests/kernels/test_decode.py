"""Every operation of a decode step against its definition in float64, in Triton and in plain torch.

And of several sequences at once against each of them alone: the same bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from purekv_cli.kernels import decode
from purekv_cli.kernels.decode import REFERENCE, Kernels, Lists, choose, explain
from tests.kernels.devices import interpreted

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CLOSE = {"atol": 2e-5, "rtol": 2e-5}


@pytest.fixture(scope="module", autouse=True)
def in_triton() -> Iterator[None]:
    with interpreted():
        yield


@pytest.fixture(params=["triton", "reference"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return REFERENCE if request.param == "reference" else decode.in_triton()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def normed(x: Tensor, weight: Tensor, epsilon: float = 1e-6) -> Tensor:
    x = x.double()
    return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * weight.double()


@dataclass
class Step:
    """A decode step of one layer: what it reads, and what must come out."""

    lists: Lists
    qkv: Tensor
    step: Tensor
    cos: Tensor
    sin: Tensor
    norms: tuple[Tensor, Tensor] | None
    dim: int

    @classmethod
    def of(cls, kept: list[int], groups: int, dim: int, step: int = 0, normed: bool = False, room: int = 3) -> "Step":
        counts = torch.tensor(kept)
        starts = 5 + (counts + room).cumsum(0) - (counts + room)  # other layers' rows before and behind
        rows = int(starts[-1] + counts[-1]) + room + 7
        places = starts[None].to(DEVICE), counts[None].to(DEVICE)
        lists = Lists(noise(rows, dim, seed=1), noise(rows, dim, seed=2), *places)
        qkv = 2 * noise(1, len(kept) * (groups + 2) * dim, seed=3)
        angle = noise(1, room, dim // 2, seed=4).repeat(1, 1, 2)
        norms = (noise(dim, seed=5), noise(dim, seed=6)) if normed else None
        return cls(lists, qkv, torch.tensor([step], device=DEVICE), angle.cos(), angle.sin(), norms, dim)

    def run(self, kernels: Kernels) -> Tensor:
        return kernels.attend(self.qkv, self.lists, self.step, self.cos, self.sin, self.norms, 1e-6, self.dim**-0.5)

    def expected(self) -> tuple[Tensor, Tensor, Tensor]:
        """Output [Hq * D] and the pools afterwards, written out head by head in float64."""
        lists, dim, at = self.lists, self.dim, int(self.step)
        kv_heads = lists.start.shape[1]
        keys, values = lists.keys.double(), lists.values.double()
        rows = self.qkv.double().view(-1, dim)
        query, key, value = rows[: -2 * kv_heads], rows[-2 * kv_heads : -kv_heads], rows[-kv_heads:]
        if self.norms is not None:
            query, key = normed(query, self.norms[0]), normed(key, self.norms[1])
        query, key = (
            x * self.cos[0, at].double()
            + torch.cat([-x[:, dim // 2 :], x[:, : dim // 2]], 1) * self.sin[0, at].double()
            for x in (query, key)
        )
        out = []
        for head, (start, kept) in enumerate(zip(lists.start[0].tolist(), lists.kept[0].tolist(), strict=True)):
            end = start + kept + at
            keys[end], values[end] = key[head], value[head]
            group = query.view(kv_heads, -1, dim)[head]
            weights = (group @ keys[start : end + 1].T * dim**-0.5).softmax(-1)
            out.append(weights @ values[start : end + 1])
        return torch.cat(out).view(1, -1), keys, values


def check(step: Step, kernels: Kernels) -> None:
    out, keys, values = step.expected()
    torch.testing.assert_close(step.run(kernels).double(), out, **CLOSE)
    torch.testing.assert_close(step.lists.keys.double(), keys, **CLOSE)
    torch.testing.assert_close(step.lists.values.double(), values, **CLOSE)


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("groups", [1, 7, 8])
def test_lists_of_awkward_lengths(kernels: Kernels, groups: int, dim: int) -> None:
    check(Step.of([0, 1, 63, 64, 65, 127, 129], groups, dim), kernels)


@pytest.mark.parametrize("kept", [[128], [255, 257], [700, 0], [1300, 1299]])
def test_lists_that_several_programs_share(kernels: Kernels, kept: list[int]) -> None:
    check(Step.of(kept, 7, 64), kernels)


@pytest.mark.parametrize("dim", [16, 80, 96, 256])
def test_later_steps_and_heads_that_are_normed(kernels: Kernels, dim: int) -> None:
    check(Step.of([0, 62, 300], 4, dim, step=2, normed=True), kernels)


def test_steps_in_a_row_read_what_the_earlier_ones_wrote(kernels: Kernels) -> None:
    step = Step.of([0, 130], 7, 64)
    for number in range(3):
        step.step.fill_(number)
        step.qkv = noise(*step.qkv.shape, seed=10 + number)
        check(step, kernels)


def test_equal_lists_lying_in_equal_distances(kernels: Kernels) -> None:
    check(Step.of([70, 70, 70], 2, 64, step=1), kernels)


@pytest.mark.parametrize(("rows", "columns"), [(1, 64), (7, 272), (130, 512), (65, 1100)])
def test_products(kernels: Kernels, rows: int, columns: int) -> None:
    hidden, norm, bias = noise(1, columns), noise(columns, seed=1), noise(rows, seed=2)
    weight, pair = noise(rows, columns, seed=3) / columns**0.5, noise(2 * rows, columns, seed=4) / columns**0.5
    x = normed(hidden, norm)[0]
    close = {"atol": 2e-5, "rtol": 1e-4}
    got = kernels.norm_linear(hidden, norm, 1e-6, weight, bias)
    torch.testing.assert_close(got[0].double(), weight.double() @ x + bias, **close)
    got = kernels.logits(hidden, norm, 1e-6, weight)
    torch.testing.assert_close(got[0].double(), weight.double() @ x, **close)
    gate, up = (pair.double() @ x).chunk(2)
    torch.testing.assert_close(kernels.norm_gated(hidden, norm, 1e-6, pair)[0].double(), F.silu(gate) * up, **close)
    summed = noise(1, rows, seed=5)
    kernels.add_linear(summed, hidden, weight)
    torch.testing.assert_close(summed[0].double(), noise(rows, seed=5) + weight.double() @ hidden[0].double(), **close)


# Triton's interpreter multiplies the bits of bfloat16
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, *[torch.bfloat16][: DEVICE.type == "cuda"]])
def test_every_type_stays_near_the_reference(dtype: torch.dtype) -> None:
    assert max(decode.difference(decode.in_triton(), DEVICE, dtype, 64, 7)) <= decode.TOLERANCE[dtype]


@pytest.mark.parametrize("size", [5, 2048, 5001])
def test_greedy_takes_the_first_of_the_largest(size: int) -> None:
    logits = noise(size)
    logits[[size // 2, size - 1]] = 9.0
    assert draws(logits, 1, 0.0)[0] == size // 2


def draws(logits: Tensor, count: int, temperature: float, seed: int = 0, floor: float = float("-inf")) -> list[int]:
    from purekv_cli.kernels.decode.sampling import draw

    tokens = torch.full((count, 1), -1, device=DEVICE)
    step, seeds = torch.tensor([-1], device=DEVICE), torch.tensor([seed], device=DEVICE)
    dials, done = torch.tensor([[temperature, floor]], device=DEVICE), torch.zeros(2, dtype=torch.int32, device=DEVICE)
    for _ in range(count):
        draw(logits[None], dials, seeds, step, tokens, done, greedy=temperature == 0)
    assert int(step) == count - 1
    return tokens[:, 0].tolist()


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([0.0, 0.6, 1.0, -0.2, 1.6], device=DEVICE)
    count = 150
    seen = torch.bincount(torch.tensor(draws(logits, count, 1.3)), minlength=5)
    likely = (logits.cpu() / 1.3).softmax(0) * count
    assert ((seen - likely).square() / likely).sum() < 18.5  # chi-square, 4 degrees of freedom: one seed in a thousand


def test_the_same_seed_draws_the_same() -> None:
    logits = noise(300)
    first = draws(logits, 20, 1.0, seed=5)
    assert draws(logits, 20, 1.0, seed=5) == first
    assert draws(logits, 20, 1.0, seed=6) != first


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_the_nucleus_is_that_of_transformers(top_p: float) -> None:
    from transformers import TopPLogitsWarper

    from purekv_cli.kernels.decode.sampling import nucleus_floor

    logits = 3 * noise(1000)
    kept = TopPLogitsWarper(top_p)(None, logits[None] / 0.7)[0] > float("-inf")
    dials = torch.tensor([0.7, top_p], device=DEVICE)
    assert torch.equal(logits >= nucleus_floor(logits, dials[:1], dials[1:]), kept)
    assert set(draws(logits, 30, 0.7, floor=float(logits[kept].min()))) <= set(kept.nonzero().flatten().tolist())


def test_why_not_is_said() -> None:
    kernels, why = choose(torch.device("cpu"), torch.float32, 128, 7)
    assert (kernels.name, why) == ("reference", "runs on CUDA only")
    names = [name for name, *_ in explain("cpu", torch.bfloat16)]
    assert names == ["triton", "reference"]
