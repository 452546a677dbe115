"""The vision tower's weights as the fast path reads them: transformers' own parameters, gate and up fused and padded.

Qwen2.5-VL's MLP is 3420 wide, no multiple of 8, and cuBLAS answers with kernels of half the speed. Rows and columns of
zeros up to a multiple of 64 change nothing in exact arithmetic: silu(0) * 0 = 0. The parameters become views of the
padded tensors, so no second copy of the weights is kept and the stock tower goes on computing the same.
"""

from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from purekv_cli.runtime.vision_windows import Windows, make_windows
from purekv_cli.runtime.weights import Unsupported

_ALIGNMENT = 64  # of the MLP's width: whole tiles for every tensor core
_KEPT_WINDOWS = 16  # frame sizes whose windows are remembered


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """One block: x + proj(attention(norm(x))), then x + down(silu(gate(norm(x))) * up(norm(x))); I padded."""

    full: bool  # whether it attends to the whole temporal step, not only to its window
    attention_norm: Tensor  # [hidden]
    qkv: Tensor  # [3 * hidden, hidden]
    qkv_bias: Tensor  # [3 * hidden]
    proj: Tensor  # [hidden, hidden]
    proj_bias: Tensor  # [hidden]
    mlp_norm: Tensor  # [hidden]
    gate_up: Tensor  # [2 * I, hidden]: gate, then up
    gate_up_bias: Tensor  # [2 * I]
    down: Tensor  # [hidden, I]
    down_bias: Tensor  # [hidden]


@dataclass(frozen=True, slots=True)
class Tower:
    """All of it, in the order it is applied."""

    embed: Tensor  # [hidden, 3 * temporal_patch * patch * patch]
    blocks: tuple[BlockWeights, ...]
    merger_norm: Tensor  # [hidden]
    merger_in: Tensor  # [hidden * merge^2, hidden * merge^2]
    merger_in_bias: Tensor  # [hidden * merge^2]
    merger_out: Tensor  # [out, hidden * merge^2]
    merger_out_bias: Tensor  # [out]
    frequencies: Tensor  # float32 [D / 4]
    heads: int
    merge: int  # side of a merged token in patches
    window: int  # side of a window in merged tokens
    epsilon: float  # of the norms
    known: dict[tuple[int, int], Windows] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        return self.embed.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.dtype

    @property
    def head_dim(self) -> int:
        return self.embed.shape[0] // self.heads

    def windows(self, rows: int, columns: int) -> Windows:
        """Of a temporal step of rows x columns patches; made once per size."""
        key = (rows, columns)
        if key not in self.known:
            if len(self.known) >= _KEPT_WINDOWS:
                self.known.pop(next(iter(self.known)))
            self.known[key] = make_windows(rows, columns, self.merge, self.window, self.frequencies)
        return self.known[key]


_read: WeakKeyDictionary[nn.Module, Tower] = WeakKeyDictionary()


def read_tower(model: PreTrainedModel) -> Tower:
    """The weights of the model's vision tower, fused and padded on the first call.

    Raises:
        Unsupported: it is another tower than Qwen2.5-VL's, quantised, or spread over devices.
    """
    tower = find_tower(model)
    if type(tower) is not Qwen2_5_VisionTransformerPretrainedModel:
        kind = "none" if tower is None else type(tower).__name__
        raise Unsupported(f"its vision tower is {kind}, not Qwen2.5-VL's")
    known = _read.get(tower)
    if known is not None and _is_current(known, tower):
        return known
    parameters = list(tower.parameters())
    if len({p.device for p in parameters}) > 1 or parameters[0].device.type == "meta":
        raise Unsupported("its vision tower lies on several devices")
    if len({p.dtype for p in parameters}) > 1 or not parameters[0].dtype.is_floating_point:
        raise Unsupported("its vision tower is quantised or of mixed types")
    if tower.config.hidden_act != "silu":
        raise Unsupported(f"the activation of its vision tower is {tower.config.hidden_act}, not silu")
    _read[tower] = fresh = _tower(tower)
    return fresh


def find_tower(model: PreTrainedModel) -> nn.Module | None:
    """The vision tower's module where Qwen's models keep it, or VideoLLaMA2."""
    inner: Any = getattr(model, "model", model)
    found = getattr(inner, "visual", None) or getattr(model, "vision_tower", None)
    return found if isinstance(found, nn.Module) else None


def _is_current(known: Tower, tower: Any) -> bool:
    """Whether the model still computes with these tensors: it may have been moved or cast since."""
    pairs = [(known.embed, tower.patch_embed.proj.weight), (known.merger_out, tower.merger.mlp[2].weight)]
    pairs += [(block.gate_up, own.mlp.gate_proj.weight) for block, own in zip(known.blocks, tower.blocks, strict=True)]
    return all(mine.data_ptr() == theirs.data_ptr() and mine.dtype == theirs.dtype for mine, theirs in pairs)


def _tower(tower: Any) -> Tower:
    merger = tower.merger
    frequencies = tower.rotary_pos_emb.inv_freq.float().to(tower.patch_embed.proj.weight.device)
    return Tower(
        embed=tower.patch_embed.proj.weight.data.flatten(1),
        blocks=tuple(_block(block, index in tower.fullatt_block_indexes) for index, block in enumerate(tower.blocks)),
        merger_norm=merger.ln_q.weight.data,
        merger_in=_plain(merger.mlp[0]).weight.data,
        merger_in_bias=merger.mlp[0].bias.data,
        merger_out=_plain(merger.mlp[2]).weight.data,
        merger_out_bias=merger.mlp[2].bias.data,
        frequencies=frequencies,
        heads=int(tower.config.num_heads),
        merge=int(tower.spatial_merge_size),
        window=int(tower.window_size // tower.spatial_merge_size // tower.patch_size),
        epsilon=float(tower.blocks[0].norm1.variance_epsilon),
    )


def _block(block: Any, full: bool) -> BlockWeights:
    attention, mlp = block.attn, block.mlp
    gate, up, down = (_plain(part) for part in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    width = -(-gate.weight.shape[0] // _ALIGNMENT) * _ALIGNMENT
    return BlockWeights(
        full=full,
        attention_norm=block.norm1.weight.data,
        qkv=_plain(attention.qkv).weight.data,
        qkv_bias=attention.qkv.bias.data,
        proj=_plain(attention.proj).weight.data,
        proj_bias=attention.proj.bias.data,
        mlp_norm=block.norm2.weight.data,
        gate_up=_stacked([gate.weight, up.weight], width),
        gate_up_bias=_stacked([gate.bias, up.bias], width),
        down=_widened(down.weight, width),
        down_bias=down.bias.data,
    )


def _plain(linear: nn.Module) -> nn.Linear:
    if type(linear) is not nn.Linear:
        raise Unsupported("the projections of its vision tower are no plain linear layers")
    return linear


def _stacked(parameters: list[Tensor], rows: int) -> Tensor:
    """One tensor with `rows` rows for each, zero where a parameter has fewer; the parameters become views of it."""
    first = parameters[0].data
    whole = first.new_zeros(len(parameters) * rows, *first.shape[1:])
    for index, parameter in enumerate(parameters):
        view = whole[index * rows : index * rows + len(parameter)]
        view.copy_(parameter.data)
        parameter.data = view
    return whole


def _widened(parameter: Tensor, columns: int) -> Tensor:
    """The matrix with columns of zeros up to `columns`; the parameter becomes a view of it."""
    if parameter.shape[1] == columns:
        return parameter.data
    whole = parameter.data.new_zeros(len(parameter), columns)
    view = whole[:, : parameter.shape[1]]
    view.copy_(parameter.data)
    parameter.data = view
    return whole
