"""What is compared, behind one small interface: stock transformers as it comes, and ours.

Both start from the same embeddings and positions and end with greedy tokens. The stock baseline is transformers' own
decoder with SDPA and a dynamic cache; its head sees the last token only, as `logits_to_keep=1` does, and nothing is
padded or masked, so that SDPA may take its fastest causal kernel.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from transformers import DynamicCache, PreTrainedModel

from purekv_cli.bench.problem import Problem
from purekv_cli.method.config import MethodConfig
from purekv_cli.runtime.answering import text_positions
from purekv_cli.runtime.attach import attach
from purekv_cli.runtime.cache import CompactCache
from purekv_cli.runtime.decode_graph import GraphDecoder
from purekv_cli.runtime.embed import embed_tokens
from purekv_cli.runtime.fast_prefill import fast_prefill, uses_sparse
from purekv_cli.runtime.metrics import KVMeter, StageClock
from purekv_cli.runtime.sampling import Generation
from purekv_cli.runtime.weights import Unsupported


@dataclass(slots=True)
class Read:
    """A prompt that has been read: what decoding goes on from."""

    cache: Any  # of the engine's own kind
    logits: Tensor  # [1, vocabulary], of the last token
    problem: Problem
    sparse: bool = False  # whether ST-SpAttn ran
    tokens: list[int] = field(default_factory=list)  # greedy, so far


class Engine(Protocol):
    """Reads a prompt, then draws tokens."""

    name: str
    propagates: bool  # whether it can let only some tokens flow through the upper layers
    trims: bool  # whether its last layer works for the last token alone

    @property
    def captures(self) -> int:
        """Graphs captured so far."""
        ...

    def prefill(
        self, problem: Problem, config: MethodConfig, meter: KVMeter | None = None, clock: StageClock | None = None
    ) -> Read:
        """Read the prompt, prune as `config` says."""
        ...

    def start(self, read: Read, count: int) -> int:
        """The first token, with everything set up for `count` further ones."""
        ...

    def decode(self, read: Read, count: int) -> list[int]:
        """`count` further greedy tokens; returns all so far."""
        ...

    def kv_bytes(self, read: Read) -> int:
        """K and V bytes of the tensors that exist."""
        ...

    def kept(self, read: Read) -> list[Tensor]:
        """Prompt positions in the cache, per layer int64 [1, Hkv, P], -1 in holes."""
        ...


def ours(model: PreTrainedModel) -> Engine:
    """The fastest of our engines that runs this model."""
    try:
        return Fast(model)
    except Unsupported:
        return Attached(model)


def sdpa_kernel_name(model: PreTrainedModel) -> str:
    """Which kernel stock's SDPA takes in prefill: torch chooses by device, dtype and shape."""
    config: Any = model.get_decoder().config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    query, key = (torch.empty(1, h, 1024, dim, dtype=model.dtype, device=model.device) for h in (heads, kv_heads))
    try:
        chosen = torch._fused_sdp_choice(query, key, key, is_causal=True, enable_gqa=True)
        return SDPBackend(int(chosen)).name.lower()
    except (AttributeError, TypeError, ValueError, RuntimeError):  # no public name for it
        return "kernel unknown"


class Stock:
    """transformers alone."""

    name = "stock"
    propagates = False
    trims = False
    captures = 0

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._decoder: Any = model.get_decoder()

    def prefill(
        self, problem: Problem, config: MethodConfig, meter: KVMeter | None = None, clock: StageClock | None = None
    ) -> Read:
        del config, meter, clock  # nothing is pruned, and its bytes can be counted afterwards: they only grow
        cache = DynamicCache(config=self._decoder.config)
        hidden = _feed(self._decoder, cache, problem.embeds, problem.positions)
        return Read(cache, _logits(self._model, hidden), problem)

    def start(self, read: Read, count: int) -> int:
        return _greedy(read)

    def decode(self, read: Read, count: int) -> list[int]:
        return _step_by_step(self._model, self._decoder, read, count)

    def kv_bytes(self, read: Read) -> int:
        tensors = [t for layer in read.cache.layers for t in (layer.keys, layer.values)]
        return sum(t.numel() * t.element_size() for t in tensors)

    def kept(self, read: Read) -> list[Tensor]:
        places = torch.arange(read.problem.tokens)
        return [places.expand(1, layer.keys.shape[1], -1) for layer in read.cache.layers]


class Attached:
    """Ours as hooks in transformers' decoder: the path that runs every model."""

    name = "hooks"
    propagates = False
    trims = False

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    @property
    def captures(self) -> int:
        return 0

    def prefill(
        self, problem: Problem, config: MethodConfig, meter: KVMeter | None = None, clock: StageClock | None = None
    ) -> Read:
        with attach(self._model, config) as attached:
            attached.clock = clock
            if meter is not None:
                attached.meter = meter
            cache = attached.new_cache(problem.prompt())
            hidden = _feed(attached.decoder, cache, problem.embeds, problem.positions)
            return Read(cache, _logits(self._model, hidden), problem, attached.sparse)

    def start(self, read: Read, count: int) -> int:
        return _greedy(read)

    def decode(self, read: Read, count: int) -> list[int]:
        with attach(self._model) as attached:
            return _step_by_step(self._model, attached.decoder, read, count)

    def kv_bytes(self, read: Read) -> int:
        cache: CompactCache = read.cache
        return cache.kv_bytes()

    def kept(self, read: Read) -> list[Tensor]:
        cache: CompactCache = read.cache
        return cache.kept


class Graph(Attached):
    """Hooks in prefill, the captured step in decoding."""

    name = "graph"

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._decoder = GraphDecoder(model)
        self._tokens: Iterator[int] = iter(())

    @property
    def captures(self) -> int:
        return self._decoder.captures

    def start(self, read: Read, count: int) -> int:
        generation = Generation(max_tokens=count + 1)
        self._decoder.load(read.cache, read.problem.next_position, generation.max_tokens)
        self._tokens = self._decoder.run(read.logits, generation)
        return self._next(read)

    def decode(self, read: Read, count: int) -> list[int]:
        for _ in range(count):
            self._next(read)
        return read.tokens

    def _next(self, read: Read) -> int:
        token = next(self._tokens)
        read.tokens.append(token)
        return token


class Fast(Graph):
    """Ours from the weights on: `purekv ask` on a GPU."""

    name = "fast"
    propagates = True
    trims = True

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._weights = self._decoder.weights

    def prefill(
        self, problem: Problem, config: MethodConfig, meter: KVMeter | None = None, clock: StageClock | None = None
    ) -> Read:
        cache, prompt = CompactCache(len(self._weights.layers)), problem.prompt()
        cache.prompt = prompt
        hidden = fast_prefill(
            self._weights, problem.embeds, problem.positions, prompt, config, cache, meter=meter, clock=clock
        )
        logits = nn.functional.linear(hidden, self._weights.head)[:, -1]
        return Read(cache, logits, problem, uses_sparse(config, prompt))


def _feed(decoder: Any, cache: Any, embeds: Tensor, positions: Tensor) -> Tensor:
    """The last token's hidden state [1, 1, hidden]."""
    out = decoder(inputs_embeds=embeds, position_ids=positions, past_key_values=cache, use_cache=True)
    hidden: Tensor = out.last_hidden_state[:, -1:]
    return hidden


def _logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    head: nn.Module = model.get_output_embeddings()  # type: ignore[assignment]
    logits: Tensor = head(hidden)[:, -1]
    return logits


def _greedy(read: Read) -> int:
    """The likeliest token, in the host's hands."""
    token = int(read.logits.argmax())
    read.tokens.append(token)
    return token


def _step_by_step(model: PreTrainedModel, decoder: Any, read: Read, count: int) -> list[int]:
    """The loop of `generate` without its extras: embed, one forward, argmax."""
    problem, start = read.problem, read.problem.next_position
    for _ in range(count):
        at = len(read.tokens) - 1
        positions = text_positions(problem.positions, problem.tokens + at, start + at, 1)
        embeds = embed_tokens(model, torch.tensor([read.tokens[-1:]]))
        read.logits = _logits(model, _feed(decoder, read.cache, embeds, positions))
        _greedy(read)
    return read.tokens
