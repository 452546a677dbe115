"""Video features from an own forward of Qwen2.5-VL's tower: one call per operation, whatever the number of windows.

Stock transformers calls SDPA once per window and runs the elementwise work in a dozen kernels a block. Here patches lie
in window order, windowed attention is one kernel (with the rotation inside), full attention one batch of temporal
steps, and norms, residual sums and SwiGLU are one pass each. A temporal step never sees another one, so a clip goes
through in chunks of steps: memory is bounded, and the result does not depend on the chunks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from purekv_cli.kernels.fused import add_rms_norm, rms_norm, rotate, silu_mul
from purekv_cli.kernels.window_attention import window_attention
from purekv_cli.runtime.vision_weights import BlockWeights, Tower, read_tower
from purekv_cli.runtime.vision_windows import Windows
from purekv_cli.runtime.weights import Unsupported

CHUNK_PATCHES = 2**15  # that go through the tower at once: keeps a GPU busy, and bounds its memory


def explain(model: PreTrainedModel) -> tuple[bool, str]:
    """Whether the fast tower runs for this model, and why (not)."""
    try:
        tower = read_tower(model)
    except Unsupported as reason:
        return False, str(reason)
    return True, f"{len(tower.blocks)} blocks, {sum(block.full for block in tower.blocks)} with full attention"


@torch.no_grad()
def tower_features(tower: Tower, patches: Tensor, grids: Tensor, chunk: int = CHUNK_PATCHES) -> Tensor:
    """Merged features of clips, [V, out], in frame-major order.

    Args:
        patches: [P, 3 * temporal_patch * patch * patch], of all clips one after the other, any device and dtype.
        grids: int64 [clips, 3]: temporal steps, rows and columns in patches.
        chunk: patches to compute at once, rounded to whole temporal steps.
    """
    out = torch.empty(len(patches) // tower.merge**2, len(tower.merger_out), dtype=tower.dtype, device=tower.device)
    start = 0
    for steps, rows, columns in grids.tolist():
        size = rows * columns
        most = max(1, chunk // size) * size
        end = start + steps * size
        for begin in range(start, end, most):
            stop = min(begin + most, end)
            part = patches[begin:stop].to(tower.device, tower.dtype)
            out[begin // tower.merge**2 : stop // tower.merge**2] = step_features(tower, part, rows, columns)
        start = end
    return out


@torch.no_grad()
def step_features(tower: Tower, patches: Tensor, rows: int, columns: int) -> Tensor:
    """Merged features [T * S / merge^2, out] of T temporal steps of S = rows * columns patches.

    Args:
        patches: [T * S, 3 * temporal_patch * patch * patch], on the tower's device, in its dtype.
    """
    windows = tower.windows(rows, columns)
    steps, cells = len(patches) // (rows * columns), len(windows.order)
    x = F.linear(patches, tower.embed)
    x = x.view(steps, cells, -1)[:, windows.order].view(len(patches), -1)
    turn = (windows.cos.repeat(steps, 1), windows.sin.repeat(steps, 1))
    normed = rms_norm(x, tower.blocks[0].attention_norm, tower.epsilon)
    following = [block.attention_norm for block in tower.blocks[1:]] + [tower.merger_norm]
    for block, norm in zip(tower.blocks, following, strict=True):
        qkv = F.linear(normed, block.qkv, block.qkv_bias)
        mixed = _full_attention(qkv, turn, steps, tower) if block.full else _window_attention(qkv, windows, tower)
        mixed = F.linear(mixed, block.proj, block.proj_bias)
        normed, x = add_rms_norm(mixed, x, block.mlp_norm, tower.epsilon)
        normed, x = add_rms_norm(_mlp(normed, block), x, norm, tower.epsilon)
    merged = F.gelu(F.linear(normed.view(steps * cells, -1), tower.merger_in, tower.merger_in_bias))
    merged = F.linear(merged, tower.merger_out, tower.merger_out_bias)
    out = torch.empty_like(merged).view(steps, cells, -1)
    out[:, windows.order] = merged.view(steps, cells, -1)
    return out.view(steps * cells, -1)


def _window_attention(qkv: Tensor, windows: Windows, tower: Tower) -> Tensor:
    scaling = tower.head_dim**-0.5
    return window_attention(qkv, windows.cos, windows.sin, windows.starts, windows.longest, tower.heads, scaling)


def _full_attention(qkv: Tensor, turn: tuple[Tensor, Tensor], steps: int, tower: Tower) -> Tensor:
    """Attention within whole temporal steps, [T * S, hidden]."""
    heads, dim = tower.heads, tower.head_dim
    turned = rotate(qkv, *turn, heads, heads)
    query, key, value = (part[0].unflatten(1, (steps, -1)).transpose(0, 1) for part in turned)  # [T, heads, S, D]
    out = F.scaled_dot_product_attention(query, key, value, scale=dim**-0.5)
    return out.transpose(1, 2).reshape(len(qkv), heads * dim)


def _mlp(normed: Tensor, block: BlockWeights) -> Tensor:
    gate_up = F.linear(normed, block.gate_up, block.gate_up_bias)
    return F.linear(silu_mul(gate_up), block.down, block.down_bias)
