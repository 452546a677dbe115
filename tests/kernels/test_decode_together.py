"""Several sequences in one step of decoding: every one's results are those it has alone, to the last bit."""

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from purekv_cli.kernels import decode
from purekv_cli.kernels.decode import REFERENCE, Kernels, Lists
from tests.kernels.devices import interpreted

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Triton's interpreter multiplies the bits of bfloat16
TYPES = [torch.float32, torch.float16, *[torch.bfloat16][: DEVICE.type == "cuda"]]
some = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", autouse=True)
def in_triton() -> Iterator[None]:
    with interpreted():
        yield


@pytest.fixture(params=["triton", "reference"])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return REFERENCE if request.param == "reference" else decode.in_triton()


def noise(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def same(together: Tensor, alone: Callable[[slice], Tensor]) -> None:
    """Bitwise, row by row."""
    for seat in range(len(together)):
        assert torch.equal(together[seat], alone(slice(seat, seat + 1))[0])


def products(kernels: Kernels, seats: int, rows: int, columns: int, dtype: torch.dtype) -> None:
    hidden, norm = noise(seats, columns, seed=0), noise(columns, seed=1, dtype=dtype)
    weight, bias = noise(2 * rows, columns, seed=2, dtype=dtype), noise(2 * rows, seed=3, dtype=dtype)
    residual, x = noise(seats, 2 * rows, seed=4), noise(seats, columns, seed=5, dtype=dtype)

    def added(seat: slice) -> Tensor:
        summed = residual[seat].clone()
        kernels.add_linear(summed, x[seat].clone(), weight)
        return summed

    for operation in (
        lambda seat: kernels.norm_linear(hidden[seat].clone(), norm, 1e-6, weight, bias),
        lambda seat: kernels.norm_gated(hidden[seat].clone(), norm, 1e-6, weight),
        lambda seat: kernels.logits(hidden[seat].clone(), norm, 1e-6, weight),
        added,
    ):
        same(operation(slice(None)), operation)


@settings(some, max_examples=8 if DEVICE.type == "cpu" else 3)  # every one compiles kernels of its own
@given(st.integers(2, 8), st.integers(1, 9), st.integers(1, 600), st.sampled_from(TYPES))
def test_products_of_any_size(kernels: Kernels, seats: int, rows: int, columns: int, dtype: torch.dtype) -> None:
    products(kernels, seats, rows, columns, dtype)


@pytest.mark.parametrize("seats", range(2, 9))
def test_products_of_every_number(kernels: Kernels, seats: int) -> None:
    products(kernels, seats, 9, 512, TYPES[-1])


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="too many numbers for the interpreter")
@pytest.mark.parametrize("seats", range(2, 9))
def test_products_in_the_size_of_a_7b_model(seats: int) -> None:
    products(decode.in_triton(), seats, 2304, 3584, torch.bfloat16)
    products(decode.in_triton(), seats, 1792, 18944, torch.bfloat16)


@some
@given(st.lists(st.integers(0, 200), min_size=2, max_size=4), st.sampled_from([1, 7]), st.integers(0, 2), st.booleans())
def test_attention_over_lists_of_any_length(
    kernels: Kernels, kept: list[int], groups: int, step: int, normed: bool
) -> None:
    """Two heads a sequence; whoever has the longer lists changes nothing for the others."""
    seats, dim, room, at = len(kept), 32, 3, torch.tensor([step], device=DEVICE)
    counts = torch.tensor([[count, max(0, count - 70)] for count in kept])
    starts = (counts + room).flatten().cumsum(0).view_as(counts) - counts - room
    rows = int((counts + room).sum())
    qkv, angle = noise(seats, (groups + 2) * 2 * dim, seed=1), noise(seats, room, dim, seed=2)
    norms = (noise(dim, seed=3), noise(dim, seed=4)) if normed else None

    def run(seat: slice) -> tuple[Tensor, Lists]:
        lists = Lists(*(noise(rows, dim, seed=n) for n in (5, 6)), *(t[seat].to(DEVICE) for t in (starts, counts)))
        return kernels.attend(
            qkv[seat].clone(), lists, at, angle[seat].cos(), angle[seat].sin(), norms, 1e-6, 0.2
        ), lists

    out, lists = run(slice(None))
    same(out, lambda seat: run(seat)[0])
    for seat in range(seats):
        _, own = run(slice(seat, seat + 1))
        for head in range(2):
            place = int(starts[seat, head] + counts[seat, head]) + step
            assert torch.equal(lists.keys[place], own.keys[place])
            assert torch.equal(lists.values[place], own.values[place])


def test_a_sequence_is_embedded_where_it_is_in_the_row(kernels: Kernels) -> None:
    table, tokens = noise(50, 1100, seed=0), torch.randint(50, (3, 5)).to(DEVICE)
    step = torch.tensor([2], device=DEVICE)
    assert torch.equal(kernels.embed(table, tokens, step), table[tokens[2]])


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("size", [5, 5001])
def test_tokens_are_drawn_with_a_seed_of_their_own(size: int, greedy: bool) -> None:
    from purekv_cli.kernels.decode.sampling import draw

    seats, count = 5, 4
    logits, seeds = noise(seats, size, seed=1), torch.tensor([3, 1, 4, 1, 5], device=DEVICE)
    dials = torch.tensor([[0.5 + seat, -1.0] for seat in range(seats)], device=DEVICE)

    def run(seat: slice) -> Tensor:
        own = [t[seat].contiguous() for t in (logits, dials, seeds)]
        tokens, step = torch.full((count, len(own[0])), -1, device=DEVICE), torch.tensor([-1], device=DEVICE)
        done = torch.zeros(1 + len(own[0]), dtype=torch.int32, device=DEVICE)
        for _ in range(count):
            draw(*own, step, tokens, done, greedy)
        assert int(step) == count - 1
        assert not done.any()
        return tokens.T

    together = run(slice(None))
    same(together, run)
    if greedy:
        assert torch.equal(together, logits.argmax(-1, keepdim=True).expand(-1, count))
