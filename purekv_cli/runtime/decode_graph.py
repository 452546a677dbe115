"""Generating an answer with one graph launch a token: embedding, all layers, head and the draw of the next token.

The stock path launches some thousand kernels a token and is ten times slower than memory allows; here the host only
says "once more". A token's step is captured once and replayed as long as the pool of the cache keeps its place. Token
ids reach the host through pinned memory, one step behind the device, which never waits for the host: when a stop token
is noticed, the step after it has begun already, and what it wrote is not taken over into the cache.

On a CPU the same step runs as it is, without transformers around it; there the stock sampler draws.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from purekv_cli.kernels.decode import choose
from purekv_cli.runtime.cache import CompactCache
from purekv_cli.runtime.decode_pool import DecodePool, entries, roomy
from purekv_cli.runtime.sampling import Generation, Sampler
from purekv_cli.runtime.weights import DecoderWeights, Unsupported, read_weights

_AHEAD = 64  # tokens: the smallest room


class GraphDecoder:
    """Draws the tokens of one answer after another for one model.

    Example:
        >>> decoder.load(cache, next_position, generation.max_tokens)
        >>> for token in decoder.run(logits, generation):
        ...     if token in stop_ids: break
        >>> decoder.store(cache)

    Raises:
        Unsupported: the model or the device needs the stock path.
    """

    def __init__(self, model: PreTrainedModel, weights: DecoderWeights | None = None) -> None:
        self.weights = weights or read_weights(model)
        self.embedding = _embedding(model, self.weights)
        device, dtype = self.weights.device, self.weights.dtype
        groups = self.weights.heads // self.weights.kv_heads
        self.kernels, self.why = choose(device, dtype, self.weights.head_dim, groups)
        self.on_device = device.type == "cuda"
        if self.on_device and self.kernels.name == "reference":
            raise Unsupported(f"no fast decode kernels here: {self.why}")
        self.captures = 0
        self.no_graph: str | None = None if self.on_device else "CUDA graphs need a GPU"
        self.drawn = 0  # tokens that were handed out
        self._room = 0  # tokens that fit behind what was loaded
        self._buffers: _Buffers | None = None
        self._graphs: dict[str, torch.cuda.CUDAGraph] = {}
        self._axes = _rotary_axes(self.weights)

    @property
    def fed(self) -> int:
        """Of the tokens handed out, how many the model has read: all but the last."""
        return max(0, self.drawn - 1)

    @property
    def kv_bytes(self) -> int:
        """Bytes of the pool's K and V."""
        return 0 if self._buffers is None else self._buffers.pool.kv_bytes

    def release(self) -> None:
        """Free the pool and the graphs."""
        self._buffers = None
        self._graphs.clear()

    @property
    def _loaded(self) -> "_Buffers":
        if self._buffers is None:
            raise ValueError("load a cache before you decode")
        return self._buffers

    @torch.inference_mode()
    def load(self, cache: CompactCache, next_position: int, max_tokens: int) -> None:
        """Take over what `cache` holds, with room for an answer of `max_tokens`.

        Args:
            next_position: rotary position of the first new token.

        Raises:
            Unsupported: the cache holds several prompts.
        """
        if cache.layers[0].stored()[0].shape[0] != 1:
            raise Unsupported("it decodes one prompt at a time")
        weights, counts = self.weights, entries(cache)
        tokens = max(_AHEAD, max_tokens)
        rows = int(counts.sum()) + counts.numel() * max_tokens
        if self._buffers is None or not self._buffers.fit(rows, tokens):
            self.release()
            self._buffers = _Buffers(weights, roomy(rows), roomy(tokens))
        buffers = self._buffers
        buffers.pool.fill(cache, counts, max_tokens)
        positions = torch.arange(next_position, next_position + max_tokens, device=weights.device)[None]
        if self._axes > 1:
            positions = positions.expand(self._axes, 1, -1)
        cos, sin = weights.rotary(weights.norm[None, None], positions)
        buffers.cos[:max_tokens].copy_(cos[0])
        buffers.sin[:max_tokens].copy_(sin[0])
        self.drawn = 0
        self._room = max_tokens

    def run(self, logits: Tensor, generation: Generation) -> Iterator[int]:
        """Token ids as they come, at most `generation.max_tokens`; stop whenever you like.

        Args:
            logits: [1, vocabulary], of the prompt's last token.
        """
        return (self._run_device if self.on_device else self._run_host)(logits, generation)

    @torch.inference_mode()
    def store(self, cache: CompactCache) -> None:
        """Append what the model has read since `load` to `cache`, as if the stock path had done it."""
        if self._buffers is None or not self.fed:
            return
        keys, values = self._buffers.pool.appended(self.fed)
        for layer, key, value in zip(cache.layers, keys, values, strict=True):
            layer.update(key[None], value[None])

    @torch.inference_mode()
    def step(self) -> Tensor:
        """Read token number `step` and return the logits of the next, float32 [vocabulary]; what the graph holds."""
        weights, kernels, buffers = self.weights, self.kernels, self._loaded
        hidden = kernels.embed(self.embedding, buffers.tokens, buffers.step)
        for layer, lists in zip(weights.layers, buffers.pool.lists, strict=True):
            norms = None if layer.q_norm is None or layer.k_norm is None else (layer.q_norm, layer.k_norm)
            qkv = kernels.norm_linear(hidden, layer.attention_norm, weights.epsilon, layer.qkv, layer.qkv_bias)
            out = kernels.attend(
                qkv, lists, buffers.step, buffers.cos, buffers.sin, norms, weights.epsilon, weights.scaling
            )
            kernels.add_linear(hidden, out, layer.out)
            inner = kernels.norm_gated(hidden, layer.mlp_norm, weights.epsilon, layer.gate_up)
            kernels.add_linear(hidden, inner, layer.down)
        return kernels.logits(hidden, weights.norm, weights.epsilon, weights.head)

    @torch.inference_mode()
    def logits_after(self, tokens: list[int]) -> Tensor:
        """Read the last of these, the first that follow what was loaded; logits of the next, float32 [vocabulary]."""
        buffers = self._loaded
        buffers.tokens[: len(tokens)] = torch.tensor(tokens, device=buffers.tokens.device)
        buffers.step.fill_(len(tokens) - 1)
        return self.step()

    def _run_host(self, logits: Tensor, generation: Generation) -> Iterator[int]:
        buffers = self._loaded
        sampler = Sampler(generation, logits.device)
        for index in range(self._limit(generation)):
            with torch.inference_mode():
                if index:
                    buffers.step.fill_(index - 1)
                    logits = self.step()[None]
                token = int(sampler.next(logits))
                buffers.tokens[index] = token
            self.drawn = index + 1
            yield token

    def _run_device(self, logits: Tensor, generation: Generation) -> Iterator[int]:
        limit = self._limit(generation)
        mode = self._begin(logits, generation)
        self._send(0)
        for index in range(limit):
            more = index + 1 < limit
            at_once = mode in self._graphs or self.no_graph is not None  # a capture would hold the first token back
            if more and at_once:
                self._advance(mode)
                self._send(index + 1)
            token = self._received(index)
            self.drawn = index + 1
            yield token
            if more and not at_once:
                self._advance(mode)
                self._send(index + 1)

    def _limit(self, generation: Generation) -> int:
        return min(generation.max_tokens, self._room)

    @torch.inference_mode()
    def _begin(self, logits: Tensor, generation: Generation) -> str:
        """Set the dials and draw the first token."""
        buffers = self._loaded
        buffers.step.fill_(-1)
        buffers.seed.fill_(generation.seed)
        buffers.dials[0] = generation.temperature
        buffers.dials[1] = float("-inf")
        buffers.top_p.fill_(generation.top_p)
        mode = "greedy" if generation.temperature == 0 else "sample" if generation.top_p == 1 else "nucleus"
        self._draw(logits[0].float(), mode)
        return mode

    def _draw(self, logits: Tensor, mode: str) -> None:
        from purekv_cli.kernels.decode import sampling

        buffers = self._loaded
        if mode == "nucleus":
            buffers.dials[1:].copy_(sampling.nucleus_floor(logits, buffers.dials[:1], buffers.top_p))
        sampling.draw(
            logits, buffers.dials, buffers.seed, buffers.step, buffers.tokens, buffers.done, greedy=mode == "greedy"
        )

    @torch.inference_mode()
    def _advance(self, mode: str) -> None:
        """Launch the next step."""
        if self.no_graph is not None:
            self._draw(self.step(), mode)
            return
        if mode not in self._graphs:
            self._capture(mode)
        if mode in self._graphs:
            self._graphs[mode].replay()
        else:
            self._draw(self.step(), mode)

    def _capture(self, mode: str) -> None:
        buffers = self._loaded
        step = buffers.step.clone()
        try:
            self._draw(self.step(), mode)  # compiles the kernels; what it wrote is written again
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may load frames
                self._draw(self.step(), mode)
            self._graphs[mode] = graph
            self.captures += 1
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.no_graph = f"capturing a CUDA graph failed: {str(error).splitlines()[0][:120]}"
        buffers.step.copy_(step)

    @torch.inference_mode()
    def _send(self, index: int) -> None:
        buffers = self._loaded
        buffers.pinned[index : index + 1].copy_(buffers.tokens[index : index + 1], non_blocking=True)
        buffers.events[index % 2].record()

    def _received(self, index: int) -> int:
        buffers = self._loaded
        buffers.events[index % 2].synchronize()
        return int(buffers.pinned[index])


class _Buffers:
    """What a step reads and writes beside the weights; addresses that a graph may rely on."""

    def __init__(self, weights: DecoderWeights, rows: int, tokens: int) -> None:
        device, dim = weights.device, weights.head_dim
        self.pool = DecodePool(len(weights.layers), weights.kv_heads, rows, weights.norm.new_empty(0, dim))
        self.cos = torch.zeros(tokens, dim, dtype=weights.dtype, device=device)
        self.sin = torch.zeros_like(self.cos)
        self.tokens = torch.zeros(tokens, dtype=torch.int64, device=device)
        self.step = torch.zeros(1, dtype=torch.int64, device=device)
        self.seed = torch.zeros(1, dtype=torch.int64, device=device)
        self.dials = torch.zeros(2, dtype=torch.float32, device=device)  # temperature, lowest logit
        self.top_p = torch.ones(1, dtype=torch.float32, device=device)
        self.done = torch.zeros(1, dtype=torch.int32, device=device)
        self.pinned = torch.zeros(tokens, dtype=torch.int64, pin_memory=device.type == "cuda")
        self.events = [torch.cuda.Event() for _ in range(2)] if device.type == "cuda" else []

    def fit(self, rows: int, tokens: int) -> bool:
        """Whether lists of so many rows and an answer of so many tokens have room."""
        return rows <= self.pool.rows and tokens <= len(self.tokens)


def _embedding(model: PreTrainedModel, weights: DecoderWeights) -> Tensor:
    table = model.get_input_embeddings()
    if type(table) is not torch.nn.Embedding:
        raise Unsupported("its embedding is no plain table")
    if table.weight.device != weights.device:
        raise Unsupported("its layers lie on several devices")
    return table.weight.data


def _rotary_axes(weights: DecoderWeights) -> int:
    """3 where the rotary embedding wants time, height and width."""
    config = getattr(weights.rotary, "config", None)
    dials = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return 3 if "mrope_section" in dials else 1
