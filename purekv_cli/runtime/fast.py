"""Which way a model's prompts and answers go: straight from its weights, or through transformers; and why.

The fast way (fast_prefill, decode_graph) knows decoders of one common build. Everything else, and `--kernels
reference`, takes the stock way with hooks, which knows neither propagation nor graphs but every model.
"""

import weakref
from dataclasses import dataclass

from transformers import PreTrainedModel

from purekv_cli.kernels import allowed
from purekv_cli.runtime.decode_graph import GraphDecoder
from purekv_cli.runtime.weights import DecoderWeights, Unsupported, read_weights


@dataclass(slots=True)
class FastPath:
    """What the fast way needs of one model. A part that is None goes the stock way."""

    weights: DecoderWeights | None
    decoder: GraphDecoder | None  # one for all answers: a pool and a graph that fit once are used again
    prefill_why: str  # in words, for `doctor` and `-v`
    decode_why: str


_ONLY_REFERENCE = "transformers: only the reference kernels are allowed"
_REFERENCE = FastPath(None, None, _ONLY_REFERENCE, _ONLY_REFERENCE)
_paths: "weakref.WeakKeyDictionary[PreTrainedModel, FastPath]" = weakref.WeakKeyDictionary()


def fast_path(model: PreTrainedModel) -> FastPath:
    """The model's own, made at the first call."""
    if allowed() == "reference":
        return _REFERENCE
    if model not in _paths:
        _paths[model] = _make(model)
    return _paths[model]


def _make(model: PreTrainedModel) -> FastPath:
    try:
        weights = read_weights(model)
    except Unsupported as reason:
        return FastPath(None, None, f"transformers: {reason}", f"transformers: {reason}")
    try:
        decoder = GraphDecoder(model, weights)
    except Unsupported as reason:
        return FastPath(weights, None, "from the weights", f"transformers: {reason}")
    step = decoder.no_graph or "one graph launch a token"
    return FastPath(weights, decoder, "from the weights", f"from the weights; {step}")
