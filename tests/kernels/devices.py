"""Where kernel tests run: always on the CPU, on a GPU too where there is one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else [])]
# float32 rounding over sums of this size; GPU kernels make a float32 product of three TF32 ones
TOLERANCE = {"cpu": 2e-6, "cuda": 1e-5}
on_each_device = pytest.mark.parametrize("device", DEVICES)


def qkv(
    device: str, heads: int, kv_heads: int, rows: int, columns: int, dim: int = 16, batch: int = 2, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random float32 query [B, Hq, N, D], key and value [B, Hkv, M, D], the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, heads, rows, dim), (batch, kv_heads, columns, dim), (batch, kv_heads, columns, dim))
    query, key, value = (torch.randn(shape, generator=generator).to(device) for shape in shapes)
    return query, key, value


def probabilities(
    query: torch.Tensor, key: torch.Tensor, scaling: float, seen: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(q k^T) [B, Hq, N, M] and its LSE in float64, by the definition; a row that sees nothing gives 0, -inf."""
    wide = key.double().repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = (torch.einsum("bhid,bhjd->bhij", query.double(), wide) * scaling).masked_fill(~seen, float("-inf"))
    return scores.softmax(-1).nan_to_num(0.0), scores.logsumexp(-1)


def causal(rows: int, columns: int, device: str) -> torch.Tensor:
    """bool [N, M]: the last query sees every key."""
    at = torch.arange(columns - rows, columns, device=device)
    return torch.arange(columns, device=device)[None, :] <= at[:, None]


@contextmanager
def interpreted() -> Iterator[None]:
    """Import Triton kernels inside, and run them: without a GPU Triton's interpreter runs them on CPU tensors."""
    if torch.cuda.is_available():
        yield
        return
    from triton.runtime import interpreter

    change_tensors = interpreter._patch_lang_tensor

    def with_loop_bounds(tensor: type, scope: object) -> None:
        """Triton 3.6 turns loop bounds into integers in a way that numpy 2.4 refuses."""
        change_tensors(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "TRITON_INTERPRET", "1")
        patch.setattr(interpreter, "_patch_lang_tensor", with_loop_bounds)
        yield
