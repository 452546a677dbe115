"""A turn over a cache that goes on, straight from the decoder's weights: a question about a clip that was read before.

A question is a few dozen tokens, so a layer takes as long as its launches do: they are few here, and nothing waits for
the device between the first layer and the last.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from purekv_cli.kernels import fused
from purekv_cli.kernels.attention import attention, backends
from purekv_cli.runtime.cache import CompactCache
from purekv_cli.runtime.fast_layer import mlp, project, token_major
from purekv_cli.runtime.rotary import rotary_of
from purekv_cli.runtime.weights import DecoderWeights, Unsupported


def fast_turn(
    weights: DecoderWeights,
    embeds: Tensor,
    positions: Tensor,
    cache: CompactCache,
    tell: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Read a turn and append it to the cache, as the stock path would.

    Args:
        weights: of `read_weights`.
        embeds: [1, n, H].
        positions: rotary positions, [3, 1, n], [4, 1, n] with the text row first, or [1, n].
        cache: of one prompt that has been read; every token of the turn reads all that is in it.
        tell: called after every layer with (layers done, layers).

    Returns:
        The last token's hidden state after the final norm, [1, 1, H].

    Raises:
        Unsupported: several prompts at once, or a cache in which nothing has been read.
    """
    if embeds.shape[0] != 1 or not cache.get_seq_length() or cache.layers[0].stored()[0].shape[0] != 1:
        raise Unsupported("it reads a turn after one prompt")
    masks = [layer.readable(None) for layer in cache.layers]  # the device is waited for here, before the first layer
    rotary, layers, epsilon = rotary_of(weights.rotary, positions, embeds[:, :1]), weights.layers, weights.epsilon
    hidden = embeds[0]
    normed = fused.rms_norm(hidden, layers[0].attention_norm, epsilon)
    for index, layer in enumerate(layers):
        query, key, value = project(weights, layer, normed, rotary.cos[0], rotary.sin[0], "qkv")
        attended = token_major(_read(query, *cache.layers[index].update(key, value), weights.scaling, masks[index]))
        normed, hidden = fused.add_rms_norm(F.linear(attended, layer.out), hidden, layer.mlp_norm, epsilon)
        following = layers[index + 1].attention_norm if index + 1 < len(layers) else weights.norm
        normed, hidden = fused.add_rms_norm(mlp(layer, normed), hidden, following, epsilon)
        if tell is not None:
            tell(index + 1, len(layers))
    return normed[-1:][None]


def _read(query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Tensor | None) -> Tensor:
    """Attention of the last n of M entries to all before them, [1, Hq, n, D].

    On a GPU and without holes this is two calls of one kernel. `attention` would give the past to cuDNN, which plans
    anew, for longer than a turn takes, whenever a question has another length.

    Args:
        mask: bool [1, Hkv or 1, 1, M - n], False in the holes of the past; None: there are none.
    """
    own = query.shape[2]
    past = key.shape[2] - own
    if mask is not None:
        mask = F.pad(mask, (0, own), value=True)
    flash = _flash(query, key) if mask is None else None
    if flash is None:
        return attention(query, key, value, scaling, causal=True, mask=mask)[0]
    out, lse = flash.run(query, key[:, :, past:], value[:, :, past:], scaling, True, None)
    seen, its = flash.run(query, key[:, :, :past], value[:, :, :past], scaling, False, None)
    return out.float().lerp(seen.float(), (its - lse).sigmoid()[..., None]).to(query.dtype)


def _flash(query: Tensor, key: Tensor) -> backends.Backend | None:
    """The kernel, if it takes heads in groups here."""
    backend = next(backend for backend in backends.BACKENDS if backend.name == "flash")
    groups = query.shape[1] // key.shape[1]
    trial = backends.tried(backend.name, query.device, query.dtype, query.shape[3], groups)
    return backend if trial.usable and trial.native_gqa else None
