"""The decoder over many rows of text at once, each row after a past of its own, straight from the weights.

One dense prefill serves every arm: what a row reads of the video is then gathered keys and values, not another prefill.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from purekv_cli.kernels import fused
from purekv_cli.kernels.attention import attention
from purekv_cli.runtime.fast_layer import mlp, project
from purekv_cli.runtime.states import States
from purekv_cli.runtime.weights import DecoderWeights


@dataclass(frozen=True, slots=True)
class Past:
    """Entries of one layer that rows of text read before their own."""

    key: Tensor  # [R or 1, Hkv, m, D]
    value: Tensor  # [R or 1, Hkv, m, D]
    there: Tensor | None = None  # bool [R or 1, Hkv or 1, m], False in holes; None: no holes

    def then(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values with own ones [R, Hkv, n, D] behind them, and a mask [R, Hkv or 1, 1, m + n] or None."""
        rows, own = key.shape[0], key.shape[2]
        mask = None
        if self.there is not None:
            mask = F.pad(self.there.expand(rows, -1, -1), (0, own), value=True)[:, :, None]
        keys, values = (
            torch.cat([before.expand(rows, -1, -1, -1), now], 2)
            for before, now in ((self.key, key), (self.value, value))
        )
        return keys, values, mask


def angles(weights: DecoderWeights, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [n, D] of rotary positions [4, 1, n] with the text row first, [3, 1, n] or [1, n]."""
    if positions.dim() == 3 and positions.shape[0] == 4:
        positions = positions[1:]
    if positions.dim() == 2 and hasattr(weights.rotary, "mrope_section"):
        positions = positions.expand(3, -1, -1)
    cos, sin = weights.rotary(like[:1, None], positions.to(like.device))
    return cos[0], sin[0]


def read(
    weights: DecoderWeights,
    embeds: Tensor,
    turn: tuple[Tensor, Tensor],
    pasts: Sequence[Past] | None = None,
    *,
    keep: bool = False,
) -> tuple[Tensor, list[States]]:
    """Run the layers over rows of tokens; each token reads its row's past and its row up to itself.

    Args:
        embeds: [R, n, H]. Rows that are shorter are padded on the right: what comes later changes nothing before it.
        turn: of `angles`, the same for all rows.
        pasts: of every layer; None: nothing comes before.
        keep: return what every layer shows.

    Returns:
        Hidden states after the final norm, [R, n, H], and the layers' states or nothing.
    """
    count, length = embeds.shape[:2]
    cos, sin = (t.repeat(count, 1) for t in turn)
    hidden, shown = embeds.flatten(0, 1), []
    normed = fused.rms_norm(hidden, weights.layers[0].attention_norm, weights.epsilon)
    for index, layer in enumerate(weights.layers):
        projected = project(weights, layer, normed, cos, sin, "qkv")
        query, key, value = (t[0].unflatten(1, (count, length)).transpose(0, 1) for t in projected)
        keys, values, mask = (key, value, None) if pasts is None else pasts[index].then(key, value)
        out, lse = attention(query, keys, values, weights.scaling, causal=True, mask=mask, need_lse=keep)
        attended = F.linear(out.transpose(1, 2).flatten(2).flatten(0, 1), layer.out)
        normed, hidden = fused.add_rms_norm(attended, hidden, layer.mlp_norm, weights.epsilon)
        following = weights.layers[index + 1].attention_norm if index + 1 < len(weights.layers) else weights.norm
        normed, hidden = fused.add_rms_norm(mlp(layer, normed), hidden, following, weights.epsilon)
        if lse is not None:
            shown.append(States(query, key, value, lse, hidden.unflatten(0, (count, 1, length))))
    return normed.unflatten(0, (count, length)), shown
