"""Attention mass against sums and maxima over the written-out softmax, in float64."""

import pytest
import torch

from purekv_cli.kernels import allow, allowed
from purekv_cli.kernels.attention_mass import attention_mass, backends, explain, reference, row_mass
from tests.kernels.devices import TOLERANCE, causal, interpreted, on_each_device, probabilities, qkv

with interpreted():
    from purekv_cli.kernels.attention_mass import triton

# A split in which a row sees nothing has the LSE log2(0): numpy, in the interpreter, remarks on it.
pytestmark = pytest.mark.filterwarnings("ignore:divide by zero encountered in log2:RuntimeWarning")

TRITON_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = (triton.Tiles(16, 16, 4, 1), triton.Tiles(16, 32, 4, 1))  # several blocks even of few rows and keys


@pytest.fixture
def interpreter():
    """Kernels of this module run natively on a GPU, interpreted without one."""
    with interpreted():
        yield


def of_rows(query, key, scaling, row_positions, key_positions, reduce, pool=False):
    """Row mass by the definition, float64, indexed by prompt position."""
    seen = key_positions[None, :] <= row_positions[:, None]
    grouped = probabilities(query, key, scaling, seen)[0].unflatten(1, (key.shape[1], -1))
    mass = grouped.sum((2, 3)) if reduce == "sum" else grouped.amax((2, 3))
    if pool:
        mass = mass.sum(1, keepdim=True) if reduce == "sum" else mass.amax(1, keepdim=True)
    return mass[..., key_positions.argsort()]


def expected(query, key, scaling, rows, valid, reduce):
    """A[b, g, j] by the definition; padded keys are outside the softmax, padded queries do not vote."""
    length, columns = query.shape[2], key.shape[2]
    valid = torch.ones(len(query), columns, dtype=torch.bool, device=query.device) if valid is None else valid
    weights, _ = probabilities(query, key, scaling, causal(length, columns, query.device) & valid[:, None, None])
    weights = weights * (rows & valid[:, columns - length :])[:, None, :, None]
    grouped = weights.unflatten(1, (key.shape[1], -1))
    return grouped.sum((2, 3)) if reduce == "sum" else grouped.amax((2, 3))


def lse_of(query, key, scaling, valid):
    seen = causal(query.shape[2], key.shape[2], query.device)
    seen = seen if valid is None else seen & valid[:, None, None]
    return probabilities(query, key, scaling, seen)[1].float()


def some_rows(length, which, device):
    at = torch.arange(length, device=device)
    few = torch.stack([at >= length - 2, at % 5 == 3])
    return {
        "all": torch.ones_like(few),
        "few": few,
        "one prompt only": few & (at[None] >= 0) & few.new_tensor([[1], [0]]),
    }[which]


@on_each_device
@pytest.mark.parametrize("reduce", ["sum", "max"])
@pytest.mark.parametrize("given", ["lse given", "lse on the spot"])
@pytest.mark.parametrize("which", ["all", "few", "one prompt only"])
@pytest.mark.parametrize("padded", ["no", "left", "right"])
@pytest.mark.parametrize(("heads", "kv_heads", "length", "columns"), [(4, 4, 33, 33), (6, 2, 17, 40), (7, 1, 1, 29)])
def test_equals_the_definition(device, reduce, given, which, padded, heads, kv_heads, length, columns):
    query, key, _ = qkv(device, heads, kv_heads, length, columns)
    rows = some_rows(length, which, device)
    whole_and_padded = torch.arange(columns, device=device) >= torch.tensor([[0], [26]], device=device)
    valid = {"no": None, "left": whole_and_padded, "right": whole_and_padded.flip(-1)}[padded]
    lse = lse_of(query, key, 0.4, valid) if given == "lse given" else None
    got = attention_mass(query, key, lse, 0.4, rows, valid, reduce)
    assert got.dtype == torch.float32
    want = expected(query, key, 0.4, rows, valid, reduce)
    torch.testing.assert_close(got.double(), want, atol=TOLERANCE[device], rtol=TOLERANCE[device])


@on_each_device
def test_every_observed_row_and_head_hands_out_one(device):
    query, key, _ = qkv(device, 6, 2, 57, 57)
    rows = some_rows(57, "few", device)
    got = attention_mass(query, key, None, 0.4, rows)
    torch.testing.assert_close(got.sum((1, 2)), rows.sum(-1) * 6.0)


@on_each_device
def test_padding_gets_nothing_and_changes_nothing(device):
    query, key, _ = qkv(device, 6, 2, 20, 20, batch=1)
    alone = attention_mass(query, key, None, 0.4, torch.ones(1, 20, dtype=torch.bool, device=device))
    wide = [torch.cat([torch.full_like(t[:, :, :5], 9.0), t], 2) for t in (query, key)]
    valid = torch.arange(25, device=device)[None] >= 5
    beside = attention_mass(*wide, None, 0.4, torch.ones_like(valid), valid)
    assert (beside[..., :5] == 0).all()
    torch.testing.assert_close(beside[..., 5:], alone)


@on_each_device
def test_blocks_change_nothing(device, monkeypatch):
    query, key, _ = qkv(device, 6, 2, 30, 41)
    rows = some_rows(30, "few", device)
    whole = [reference.attention_mass(query, key, None, 0.4, rows, None, reduce) for reduce in ("sum", "max")]
    monkeypatch.setattr(reference, "_BLOCK_ELEMENTS", {device: 1})
    for reduce, want in zip(("sum", "max"), whole, strict=True):
        torch.testing.assert_close(reference.attention_mass(query, key, None, 0.4, rows, None, reduce), want)


def test_no_observed_row_means_no_mass():
    query, key, _ = qkv("cpu", 4, 2, 8, 8)
    assert (attention_mass(query, key, None, 0.4, torch.zeros(2, 8, dtype=torch.bool)) == 0).all()


@on_each_device
def test_no_attention_matrix_is_stored(device, monkeypatch):
    """The largest tensor of the reference stays within the block size, however many rows are observed."""
    monkeypatch.setattr(reference, "_BLOCK_ELEMENTS", {device: 2000})
    query, key, _ = qkv(device, 4, 2, 200, 200, batch=1, dim=2)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.untyped_storage().nbytes() // result.element_size())
            return result

    with Watch():
        every = torch.ones(1, 200, dtype=torch.bool, device=device)
        reference.attention_mass(query, key, None, 0.4, every, None, "sum")
    assert largest <= 2000


@on_each_device
@pytest.mark.parametrize("reduce", ["sum", "max"])
@pytest.mark.parametrize("pool", [True, False])
def test_rows_alone_against_keys_in_any_order(device, reduce, pool):
    query, key, _ = qkv(device, 6, 2, 9, 31)
    order = torch.randperm(31, generator=torch.Generator().manual_seed(1)).to(device)
    at = torch.tensor([30, 0, 4, 29, 29, 7, 11, 12, 3], device=device)
    want = of_rows(query, key, 0.4, at, order, reduce, pool)
    got = row_mass(query, key, 0.4, at, order, reduce=reduce, pool_heads=pool)
    torch.testing.assert_close(got.double(), want, atol=TOLERANCE[device], rtol=TOLERANCE[device])


@on_each_device
def test_rows_alone_are_the_last_rows_of_a_prompt_in_order(device):
    query, key, _ = qkv(device, 6, 2, 12, 12)
    rows = torch.arange(12, device=device) >= 8
    whole = attention_mass(query, key, None, 0.4, rows.expand(2, -1), None, "max")
    torch.testing.assert_close(row_mass(query[:, :, 8:], key, 0.4, rows.nonzero()[:, 0]), whole)


@on_each_device
def test_the_running_maximum_never_falls(device):
    query, key, _ = qkv(device, 6, 2, 3, 40)
    at = torch.tensor([37, 38, 39], device=device)
    before = torch.rand(2, 1, 40, generator=torch.Generator().manual_seed(1)).mul(0.2).to(device)
    alone = row_mass(query, key, 0.4, at, pool_heads=True)
    assert (alone > before).any()
    assert (alone < before).any()
    torch.testing.assert_close(
        row_mass(query, key, 0.4, at, pool_heads=True, running=before), torch.maximum(alone, before)
    )


@pytest.mark.parametrize(
    ("reduce", "heads", "kv_heads", "rows", "keys", "dim"),
    [
        ("max", 1, 1, 1, 1, 64),
        ("sum", 7, 1, 7, 63, 64),
        ("max", 8, 1, 1, 64, 128),
        ("max", 2, 2, 64, 65, 64),
        ("sum", 2, 2, 65, 127, 16),
        ("max", 14, 2, 7, 129, 64),
        ("sum", 6, 2, 5, 129, 80),
    ],
)
def test_the_kernels_agree_with_the_definition(interpreter, monkeypatch, reduce, heads, kv_heads, rows, keys, dim):
    """Keys permuted and strided, rows before some keys, a row that sees nothing; LSE found and given; pooled or not."""
    monkeypatch.setattr(triton, "_SCANNED", 16)  # late keys are looked for in several steps
    generator = torch.Generator().manual_seed(keys)
    query = torch.randn(1, rows, heads, dim, generator=generator).to(TRITON_DEVICE).transpose(1, 2)
    key = torch.randn(1, keys, kv_heads, dim, generator=generator).to(TRITON_DEVICE).transpose(1, 2)
    order = torch.randperm(keys, generator=generator).to(TRITON_DEVICE)
    at = torch.randint(0, keys, (rows,), generator=generator).to(TRITON_DEVICE)
    if rows > 1:
        at[1] = -1
    running = torch.rand(1, 1, keys, generator=generator).to(TRITON_DEVICE) * 0.01
    seen = order[None, :] <= at[:, None]
    lse = probabilities(query, key, dim**-0.5, seen)[1].float()
    for pool, given, so_far in ((True, None, running), (False, lse, None)):
        got = triton.row_mass(
            query, key, dim**-0.5, at, order, given, reduce, pool_heads=pool, running=so_far, tiles=SMALL
        )
        want = of_rows(query, key, dim**-0.5, at, order, reduce, pool)
        want = want if so_far is None else torch.maximum(want, so_far)
        torch.testing.assert_close(got.double(), want, atol=TOLERANCE["cuda"], rtol=TOLERANCE["cuda"])


@pytest.mark.parametrize(
    ("reduce", "which", "padded"),
    [("sum", "all", "no"), ("max", "few", "no"), ("sum", "one prompt only", "left"), ("max", "all", "right")],
)
@pytest.mark.parametrize("many", ["few rows", "many rows, causal skipping"])
def test_the_kernels_agree_on_a_batch(interpreter, monkeypatch, reduce, which, padded, many):
    monkeypatch.setattr(triton, "_MANY_ROWS", 1 if many.startswith("many") else 1000)
    query, key, _ = qkv(TRITON_DEVICE, 6, 2, 35, 51)
    rows = some_rows(35, which, TRITON_DEVICE)
    whole_and_padded = torch.arange(51, device=TRITON_DEVICE) >= torch.tensor([[0], [26]], device=TRITON_DEVICE)
    valid = {"no": None, "left": whole_and_padded, "right": whole_and_padded.flip(-1)}[padded]
    want = expected(query, key, 0.4, rows, valid, reduce)
    lse = lse_of(query, key, 0.4, valid)
    for given in (None, lse):
        got = triton.attention_mass(query, key, given, 0.4, rows, valid, reduce, tiles=SMALL)
        torch.testing.assert_close(got.double(), want, atol=TOLERANCE["cuda"], rtol=TOLERANCE["cuda"])


@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_half_precision_inputs_are_multiplied_in_float32(interpreter, reduce):
    query, key, _ = (states.half() for states in qkv(TRITON_DEVICE, 4, 2, 5, 70, dim=64))
    at = torch.arange(65, 70, device=TRITON_DEVICE)
    got = triton.row_mass(query, key, 0.1, at, None, None, reduce, pool_heads=False, running=None, tiles=SMALL)
    want = of_rows(query, key, 0.1, at, torch.arange(70, device=TRITON_DEVICE), reduce)
    torch.testing.assert_close(got.double(), want, atol=TOLERANCE["cuda"], rtol=TOLERANCE["cuda"])


def test_no_rows_leave_the_running_maximum_as_it_is(interpreter):
    query, key, _ = qkv(TRITON_DEVICE, 4, 2, 0, 8)
    nothing, running = torch.zeros(0, dtype=torch.int64, device=TRITON_DEVICE), torch.rand(2, 1, 8).to(TRITON_DEVICE)
    for module in (reference, triton):
        kept = module.row_mass(query, key, 0.4, nothing, None, None, "max", pool_heads=True, running=running)
        assert torch.equal(kept, running)
        assert kept is not running
        none = module.row_mass(query, key, 0.4, nothing, None, None, "sum", pool_heads=False, running=None)
        assert (none == 0).all()
    rows = torch.zeros(2, 8, dtype=torch.bool, device=TRITON_DEVICE)
    assert (triton.attention_mass(*qkv(TRITON_DEVICE, 4, 2, 8, 8)[:2], None, 0.4, rows, None, "sum") == 0).all()


def test_without_a_gpu_the_reference_runs_and_says_why():
    query, key, _ = qkv("cpu", 4, 2, 8, 8)
    assert backends.choose(query, key, "few") is reference
    assert explain("cpu", torch.float32) == (False, "runs on CUDA only")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_kernels_run_unless_the_reference_is_asked_for():
    query, key, _ = (states.bfloat16() for states in qkv("cuda", 14, 2, 8, 8, dim=128))
    assert explain("cuda", torch.bfloat16) == (True, "agrees with the reference")
    assert backends.choose(query, key, "few") is triton
    before = allowed()
    allow("reference")
    try:
        assert backends.choose(query, key, "few") is reference
    finally:
        allow(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_scoring_can_be_replayed_as_a_graph():
    query, key, _ = (states.bfloat16() for states in qkv("cuda", 14, 2, 16, 5000, dim=128, batch=1))
    at = torch.arange(4984, 5000, device="cuda")
    row_mass(query, key, 0.1, at, pool_heads=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = row_mass(query, key, 0.1, at, pool_heads=True)
    query.neg_()
    graph.replay()
    assert torch.equal(replayed, row_mass(query, key, 0.1, at, pool_heads=True))
