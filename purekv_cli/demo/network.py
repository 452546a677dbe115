"""The demo model's architecture (stock Qwen2.5-VL, 9.5 million parameters) and a batched forward pass for training.

The weights live in transformers' own `Qwen2_5_VLForConditionalGeneration`; what trains, saves and loads is that module.
Its forward pass, however, handles one video at a time with a Python loop over windows, so training runs the same
arithmetic here on whole batches: many clips of one shape, their questions packed behind them under a block mask
(batches.py). A test holds both to the same logits.

Choices that differ from the released configuration, and why:
- rotary base 100,000; of the 16 frequencies the second is the row's, the third the column's and all others are time's.
  The released layout (base 1e6, contiguous sections) would leave the width almost no resolution. Rows and columns are
  few and the vision tower knows them; time has up to 1024 positions and wants a ladder of wavelengths. Some must be
  nearly still over all of it, or nothing can be found by its content across a long clip: with a base of 300 the model
  hardly learnt to look a named shape up. The trailing zeros make the section count a multiple of three: older and newer
  transformers then pick the same axis per frequency.
- `tokens_per_second` 4: spacings of 0.25 s to 4 s per temporal patch become 1 to 16 positions, so int() truncation
  leaves every patch a position of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from purekv_cli.demo.batches import prompt_tokens
from purekv_cli.demo.staging import EVENT_LABELS, GLYPHS
from purekv_cli.demo.tokenizer import VOCABULARY, special_id
from purekv_cli.demo.world import COLOURS, FRAME_SIDES, MERGED_CELL, MOST_EVENTS

PATCH, MERGE, WINDOW = 14, 2, 112
TOKENS_PER_SECOND = 4
HIDDEN, HEADS, KV_HEADS, LAYERS = 256, 8, 2, 8
HEAD_WIDTH = HIDDEN // HEADS
VISION_HIDDEN, VISION_HEADS, VISION_LAYERS = 192, 6, 4
ROPE_BASE, VISION_ROPE_BASE = 100_000.0, 100.0
MROPE_SECTION = [1, 1, 1, 13, 0, 0]  # frequencies of t, h, w, t, h, w
NORM_EPSILON = 1e-6
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


def demo_config() -> Qwen2_5_VLConfig:
    prompt = prompt_tokens()
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "intermediate_size": 768,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "max_position_embeddings": 32768,
            "rms_norm_eps": NORM_EPSILON,
            "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_BASE, "mrope_section": MROPE_SECTION},
            "bos_token_id": prompt.padding,
            "eos_token_id": prompt.turn_end,
            "pad_token_id": prompt.padding,
            "tie_word_embeddings": False,
        },
        vision_config={
            "depth": VISION_LAYERS,
            "hidden_size": VISION_HIDDEN,
            "intermediate_size": 512,
            "num_heads": VISION_HEADS,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "tokens_per_second": TOKENS_PER_SECOND,
            "window_size": WINDOW,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [1, 3],
            "rope_parameters": {"rope_type": "axial", "rope_theta": VISION_ROPE_BASE},
        },
        image_token_id=special_id(prompt.tokenizer, "<|image_pad|>"),
        video_token_id=prompt.video_pad,
        vision_start_token_id=special_id(prompt.tokenizer, "<|vision_start|>"),
        vision_end_token_id=prompt.vision_end,
        tie_word_embeddings=False,
    )


def generation_config() -> GenerationConfig:
    """Greedy decoding until the end of the turn."""
    prompt = prompt_tokens()
    ends = [prompt.turn_end, prompt.padding]
    return GenerationConfig(
        eos_token_id=ends, pad_token_id=prompt.padding, bos_token_id=prompt.padding, do_sample=False
    )


def build_model(seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """A freshly initialised model in float32: fan-in scaled, residual outputs damped by depth."""
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration._from_config(
        demo_config(), attn_implementation="sdpa", dtype=torch.float32
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                continue
            if "embed_tokens" in name:
                parameter.normal_(0, 0.3)
            elif "lm_head" in name:
                parameter.normal_(0, 0.02)
            else:
                scale = 0.7 / math.sqrt(parameter[0].numel())
                if name.endswith(("o_proj.weight", "attn.proj.weight", "down_proj.weight")):
                    scale /= 0.7 * math.sqrt(2 * (VISION_LAYERS if "blocks" in name else LAYERS))
                parameter.normal_(0, scale)
    return model


def _norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    h = x.float()
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + NORM_EPSILON)
    return weight.to(x.dtype) * h.to(x.dtype)


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def _vision_qkv(x, norm, weight, bias, cos, sin):  # type: ignore[no-untyped-def]
    clips, patches, _ = x.shape
    qkv = _linear(_norm(x, norm), weight, bias).view(clips, patches, 3, VISION_HEADS, -1)
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
    return _rotate(qkv[:, :, 0], cos, sin), _rotate(qkv[:, :, 1], cos, sin), qkv[:, :, 2]


def _vision_rest(  # type: ignore[no-untyped-def]
    x, mixed, proj, proj_bias, norm, gate, gate_bias, up, up_bias, down, down_bias
):
    x = x + _linear(mixed, proj, proj_bias)
    h = _norm(x, norm)
    return x + _linear(F.silu(_linear(h, gate, gate_bias)) * _linear(h, up, up_bias), down, down_bias)


def _merge(x, norm, first, first_bias, second, second_bias):  # type: ignore[no-untyped-def]
    frames, patches, width = x.shape
    h = _norm(x, norm).view(frames, patches // MERGE**2, MERGE**2 * width)
    return _linear(F.gelu(_linear(h, first, first_bias)), second, second_bias)


def _text_qkv(x, norm, q, q_bias, k, k_bias, v, v_bias, cos, sin):  # type: ignore[no-untyped-def]
    clips, tokens, _ = x.shape
    h = _norm(x, norm)
    cos, sin = cos[:, :, None].to(x.dtype), sin[:, :, None].to(x.dtype)
    query = _rotate(_linear(h, q, q_bias).view(clips, tokens, -1, HEAD_WIDTH), cos, sin)
    key = _rotate(_linear(h, k, k_bias).view(clips, tokens, -1, HEAD_WIDTH), cos, sin)
    return query, key, _linear(h, v, v_bias).view(clips, tokens, -1, HEAD_WIDTH)


def _text_rest(x, mixed, out, norm, gate, up, down):  # type: ignore[no-untyped-def]
    x = x + _linear(mixed, out)
    h = _norm(x, norm)
    return x + _linear(F.silu(_linear(h, gate)) * _linear(h, up), down)


def to_patches(planes: tuple[torch.Tensor, ...], dtype: torch.dtype) -> torch.Tensor:
    """Qwen2.5-VL's preprocessing of frames that need no resizing.

    Three planes [2T, H, W] of levels 0..255 -> [T, cells, 4, 1176]: cells in raster order, each with its 2 x 2 patches,
    each patch as (channel, frame, row, column), normalised with CLIP's mean and deviation.
    """
    frames, height, width = planes[0].shape
    rows, columns = height // MERGED_CELL, width // MERGED_CELL
    channels = [
        ((plane.float() - mean * 255) / (std * 255)).to(dtype)
        for plane, mean, std in zip(planes, PIXEL_MEAN, PIXEL_STD, strict=True)
    ]
    x = torch.stack(channels, 1).view(frames // 2, 2, 3, rows, MERGE, PATCH, columns, MERGE, PATCH)
    return x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(frames // 2, rows * columns, MERGE**2, -1)


@dataclass(frozen=True)
class VisionLayout:
    """Where a frame's patches lie, in window order. P = 4 x cells patches."""

    order: torch.Tensor  # int64 [cells]: raster cell of each cell in window order
    restore: torch.Tensor  # int64 [cells]: inverse of order
    cos: torch.Tensor  # float32 [P, head]
    sin: torch.Tensor
    windows: int  # equal windows that the patches divide into, or 0 where windows are uneven
    mask: torch.Tensor | None  # bool [P, P], true within a window; only where windows are uneven


def vision_layout(rows: int, columns: int, device: torch.device) -> VisionLayout:
    side = WINDOW // PATCH // MERGE
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    window = ((row // side) * math.ceil(columns / side) + column // side).flatten()
    order = torch.argsort(window, stable=True)
    inner_row, inner_column = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    patch_row = (row.flatten()[order, None] * MERGE + inner_row).flatten()
    patch_column = (column.flatten()[order, None] * MERGE + inner_column).flatten()
    width = VISION_HIDDEN // VISION_HEADS // 2
    frequencies = VISION_ROPE_BASE ** -(torch.arange(0, width, 2).float() / width)
    angles = torch.cat([patch_row[:, None] * frequencies, patch_column[:, None] * frequencies], 1)
    angles = torch.cat([angles, angles], 1).to(device)
    even = rows % side == 0 and columns % side == 0
    owner = window[order].repeat_interleave(MERGE**2)
    return VisionLayout(
        order.to(device),
        torch.argsort(order).to(device),
        angles.cos(),
        angles.sin(),
        (rows // side) * (columns // side) if even else 0,
        None if even else (owner[:, None] == owner[None]).to(device),
    )


def text_angles(
    seconds_per_patch: torch.Tensor, patches: int, rows: int, columns: int, segments: tuple[int, ...], prefix: int
) -> torch.Tensor:
    """Rotary angles [B, prefix + patches * rows * columns + sum(segments), head] for every clip of a batch.

    Positions follow transformers 4.57.1: a visual token sits at prefix + (int(t * seconds * tokens_per_second), row,
    column); text after the video starts one above the largest position so far, on all three axes.
    """
    device = seconds_per_patch.device
    clips = len(seconds_per_patch)
    time = (torch.arange(patches, device=device) * seconds_per_patch[:, None] * TOKENS_PER_SECOND).long()
    row = torch.arange(rows, device=device).repeat_interleave(columns).repeat(patches)
    column = torch.arange(columns, device=device).repeat(rows * patches)
    visual = torch.stack(
        [time.repeat_interleave(rows * columns, 1), row.expand(clips, -1), column.expand(clips, -1)], 1
    )
    start = prefix + 1 + torch.clamp(time[:, -1], min=max(rows, columns) - 1)
    offsets = torch.cat([torch.arange(length, device=device) for length in segments])
    after = (start[:, None] + offsets)[:, None].expand(-1, 3, -1)
    before = torch.arange(prefix, device=device).expand(clips, 3, -1)
    positions = torch.cat([before, visual + prefix, after], 2)
    frequencies = ROPE_BASE ** -(torch.arange(0, HEAD_WIDTH, 2, device=device).float() / HEAD_WIDTH)
    axis = torch.tensor([i % 3 for i, count in enumerate(MROPE_SECTION) for _ in range(count)], device=device)
    angles = positions[:, axis].transpose(1, 2).float() * frequencies
    return torch.cat([angles, angles], -1)


def block_mask(segments: tuple[int, ...], before: int, device: torch.device) -> torch.Tensor:
    """What text tokens see, bool [S, before + S]: prefix and video wholly, their own segment causally."""
    owner = torch.cat([torch.full((length,), i) for i, length in enumerate(segments)]).to(device)
    index = torch.arange(len(owner), device=device)
    own = (owner[:, None] == owner[None]) & (index[:, None] >= index[None])
    return torch.cat([torch.ones(len(owner), before, dtype=torch.bool, device=device), own], 1)


class AuxiliaryHeads(nn.Module):
    """Read-outs per visual token that speed up training and are thrown away after it: what is here, and where is here
    (from the merged visual token); what happens here, as which event of the clip, and what happened before it (from the
    middle of the language model)."""

    def __init__(self) -> None:
        super().__init__()
        self.glyph = nn.Linear(HIDDEN, len(GLYPHS))  # 0 = nothing; lamps count as nothing
        self.colour = nn.Linear(HIDDEN, len(COLOURS) + 1)
        self.row = nn.Linear(HIDDEN, max(FRAME_SIDES) // MERGED_CELL)
        self.column = nn.Linear(HIDDEN, max(FRAME_SIDES) // MERGED_CELL)
        self.event = nn.Linear(HIDDEN, len(EVENT_LABELS))
        self.number = nn.Linear(HIDDEN, MOST_EVENTS + 1)
        self.before = nn.Linear(HIDDEN, len(EVENT_LABELS) + 1)
        self.before_colour = nn.Linear(HIDDEN, len(COLOURS) + 1)
        self.before_glyph = nn.Linear(HIDDEN, len(GLYPHS))


@dataclass(frozen=True)
class Forward:
    """What a training step needs. B clips, T patches, C visual tokens per patch, S text tokens."""

    text: torch.Tensor  # [B, S, HIDDEN], normalised: ready for the head
    merged: torch.Tensor  # [B, T, C, HIDDEN]: visual tokens as they enter the language model
    middle: torch.Tensor  # [B, T, C, HIDDEN]: visual tokens after half of the layers


class TrainingModel(nn.Module):
    """The stock module's weights under a forward pass for whole batches, with the auxiliary heads beside them."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, compiled: bool = False) -> None:
        super().__init__()
        self.model = model
        self.heads = AuxiliaryHeads()
        self._plain: dict[str, Callable[..., Any]] = {
            "vision_qkv": _vision_qkv, "vision_rest": _vision_rest, "merge": _merge,
            "text_qkv": _text_qkv, "text_rest": _text_rest,
        }  # fmt: skip
        self._compiled = {
            name: torch.compile(function) if compiled else function for name, function in self._plain.items()
        }
        self._marks = compiled
        self._layouts: dict[tuple[int, int], VisionLayout] = {}

    def _run(self, name: str, *arguments: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._plain[name](*arguments)
        if self._marks:  # clips and tokens vary from batch to batch; weights, with two dimensions at most, do not
            for argument in arguments:
                if argument.ndim > 2:
                    torch._dynamo.maybe_mark_dynamic(argument, (0, 1))
        return self._compiled[name](*arguments)

    def see(self, patches: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """The vision tower: [N, cells, 4, 1176] in raster order -> [N, cells, HIDDEN] in raster order."""
        if (rows, columns) not in self._layouts:
            layout = vision_layout(rows, columns, patches.device)
            torch._dynamo.maybe_mark_dynamic(layout.cos, 0)
            torch._dynamo.maybe_mark_dynamic(layout.sin, 0)
            self._layouts[rows, columns] = layout
        layout = self._layouts[rows, columns]
        tower = self.model.model.visual
        embed = tower.patch_embed.proj.weight
        x = _linear(patches, embed.reshape(embed.shape[0], -1))[:, layout.order].flatten(1, 2)
        frames, length, width = x.shape
        for i, block in enumerate(tower.blocks):
            q, k, v = self._run(
                "vision_qkv", x, block.norm1.weight, block.attn.qkv.weight, block.attn.qkv.bias, layout.cos, layout.sin
            )
            windowed = i not in tower.config.fullatt_block_indexes
            parts = layout.windows if windowed and layout.windows else 1
            shape = (frames * parts, length // parts, VISION_HEADS, width // VISION_HEADS)
            q, k, v = (t.reshape(shape).transpose(1, 2) for t in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=layout.mask if windowed else None)
            mlp = block.mlp
            x = self._run(
                "vision_rest", x, mixed.transpose(1, 2).reshape(frames, length, width),
                block.attn.proj.weight, block.attn.proj.bias, block.norm2.weight,
                mlp.gate_proj.weight, mlp.gate_proj.bias, mlp.up_proj.weight, mlp.up_proj.bias,
                mlp.down_proj.weight, mlp.down_proj.bias,
            )  # fmt: skip
        merger = tower.merger
        merged = self._run(
            "merge", x, merger.ln_q.weight, merger.mlp[0].weight, merger.mlp[0].bias,
            merger.mlp[2].weight, merger.mlp[2].bias,
        )  # fmt: skip
        return merged[:, layout.restore]

    def forward(
        self,
        patches: torch.Tensor,
        ids: torch.Tensor,
        seconds_per_patch: torch.Tensor,
        rows: int,
        columns: int,
        segments: tuple[int, ...],
    ) -> Forward:
        """patches [B * T, cells, 4, 1176], ids [B, S], seconds_per_patch [B]."""
        clips = len(ids)
        length = len(patches) // clips
        language = self.model.model.language_model
        merged = self.see(patches, rows, columns)
        prefix_ids = torch.tensor(prompt_tokens().before_video, device=ids.device)
        prefix = len(prefix_ids)
        before = prefix + length * rows * columns
        embed = language.embed_tokens
        x = torch.cat(
            [
                embed(prefix_ids).expand(clips, -1, -1).to(merged.dtype),
                merged.reshape(clips, before - prefix, HIDDEN),
                embed(ids).to(merged.dtype),
            ],
            1,
        )
        angles = text_angles(seconds_per_patch, length, rows, columns, segments, prefix)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        mask = block_mask(segments, before, ids.device)
        middle = x
        for i, layer in enumerate(language.layers):
            attention, mlp = layer.self_attn, layer.mlp
            q, k, v = self._run(
                "text_qkv", x, layer.input_layernorm.weight,
                attention.q_proj.weight, attention.q_proj.bias, attention.k_proj.weight, attention.k_proj.bias,
                attention.v_proj.weight, attention.v_proj.bias, cos, sin,
            )  # fmt: skip
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
            mixed = F.scaled_dot_product_attention(q[:, :, before:], k, v, attn_mask=mask, enable_gqa=True)
            mixed = mixed.transpose(1, 2)
            if i == len(language.layers) - 1:  # nobody reads the visual tokens of the last layer
                x = x[:, before:].contiguous()
            else:
                seen = F.scaled_dot_product_attention(
                    q[:, :, :before], k[:, :, :before], v[:, :, :before], is_causal=True, enable_gqa=True
                ).transpose(1, 2)
                mixed = torch.cat([seen, mixed], 1)
            x = self._run(
                "text_rest", x, mixed.flatten(2), attention.o_proj.weight, layer.post_attention_layernorm.weight,
                mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight,
            )  # fmt: skip
            if i == LAYERS // 2:
                middle = x[:, prefix:before]
        shape = (clips, length, rows * columns, HIDDEN)
        return Forward(_norm(x, language.norm.weight), merged.view(shape), middle.reshape(shape))

    def logits(self, text: torch.Tensor) -> torch.Tensor:
        return _linear(text, self.model.lm_head.weight).float()
