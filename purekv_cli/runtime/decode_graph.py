"""Generating an answer with one graph launch a token: embedding, all layers, head and the draw of the next token.

The stock path launches some thousand kernels a token and is ten times slower than memory allows; here the host only
says "once more". A token's step is captured once and replayed as long as the pool of the cache keeps its place. Token
ids reach the host through pinned memory, one step behind the device, which never waits for the host: when a stop token
is noticed, the step after it has begun already, and what it wrote is not taken over into the cache.

Several sequences may share the steps: reading the weights, which is what a step costs, is then done once for all. A
sequence that has stopped runs along until all have. Its tokens are those it has alone, to the last bit: before several
are first generated together, the products of the model are tried with several vectors and with each.

On a CPU the same step runs as it is, without transformers around it; there the stock sampler draws.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from purekv_cli.kernels.decode import choose
from purekv_cli.runtime.cache import CompactCache
from purekv_cli.runtime.decode_buffers import Buffers
from purekv_cli.runtime.decode_pool import entries, roomy
from purekv_cli.runtime.decode_trial import same_alone
from purekv_cli.runtime.sampling import Generation, Sampler
from purekv_cli.runtime.weights import DecoderWeights, Unsupported, read_weights

_AHEAD = 64  # tokens: the smallest room
SEATS = 8  # most sequences that are generated together


class GraphDecoder:
    """Draws the tokens of one answer after another for one model.

    Example:
        >>> decoder.load(cache, next_position, generation.max_tokens)
        >>> for token in decoder.run(logits, generation):
        ...     if token in stop_ids: break
        >>> decoder.store(cache)

        >>> decoder.clear(generation.max_tokens, seats=2)
        >>> for cache, next_position in prefilled: decoder.seat(cache, next_position)
        >>> for first, second in decoder.run_together(logits, [generation, generation]): ...

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
        self._seated = 0  # sequences that were loaded
        self._size = (_AHEAD, 1)  # tokens and seats that the buffers must have
        self._buffers: Buffers | None = None
        self._graphs: dict[tuple[int, str], torch.cuda.CUDAGraph] = {}  # by width and mode
        self._exact: dict[int, bool] = {1: True}  # by width
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
    def _loaded(self) -> Buffers:
        if self._buffers is None:
            raise ValueError("load a cache before you decode")
        return self._buffers

    def exact(self, seats: int) -> bool:
        """Whether up to so many sequences may be generated together: tried once, with the model's own weights."""
        widths = [1 << power for power in range(1, _width(seats).bit_length())]
        for width in widths:
            if width not in self._exact:
                self._exact[width] = same_alone(self.kernels, self.weights, width)
        return all(self._exact[width] for width in widths)

    def load(self, cache: CompactCache, next_position: int, max_tokens: int) -> None:
        """Take over what `cache` holds, with room for an answer of `max_tokens`.

        Args:
            next_position: rotary position of the first new token.

        Raises:
            Unsupported: the cache holds several prompts.
        """
        self.clear(max_tokens)
        self.seat(cache, next_position)

    def clear(self, max_tokens: int, seats: int = 1) -> None:
        """Forget all sequences; up to `seats` will come, with room for `max_tokens` each."""
        if self.on_device:
            torch.cuda.set_device(self.weights.device)  # of this thread: where kernels are launched
        self._size = (max(_AHEAD, max_tokens), _width(seats))
        if self._buffers is not None:
            if self._buffers.fit(*self._size):
                self._buffers.pool.used = 0
            else:
                self.release()
        self._seated = self.drawn = 0
        self._room = max_tokens

    @torch.inference_mode()
    def seat(self, cache: CompactCache, next_position: int) -> None:
        """Take over one more sequence, as `load` does the only one."""
        if cache.layers[0].stored()[0].shape[0] != 1:
            raise Unsupported("it decodes one prompt at a time")
        weights, room, counts = self.weights, self._room, entries(cache)
        rows = int(counts.sum()) + counts.numel() * room
        buffers = self._with_rows(rows)
        buffers.pool.fill(cache, counts, room, self._seated)
        positions = torch.arange(next_position, next_position + room, device=weights.device)[None]
        if self._axes > 1:
            positions = positions.expand(self._axes, 1, -1)
        cos, sin = weights.rotary(weights.norm[None, None], positions)
        buffers.cos[self._seated, :room].copy_(cos[0])
        buffers.sin[self._seated, :room].copy_(sin[0])
        self._seated += 1

    def _with_rows(self, rows: int) -> Buffers:
        """The buffers, with so many unused rows in the pool."""
        buffers = self._buffers
        if buffers is None or (not self._seated and rows > buffers.pool.rows):
            self.release()  # first, there may not be room for both
            tokens, seats = self._size
            buffers = self._buffers = Buffers(self.weights, roomy(rows), roomy(tokens), seats)
        elif buffers.pool.used + rows > buffers.pool.rows:
            self._graphs.clear()
            buffers.pool.enlarge(roomy(buffers.pool.used + rows))
        return buffers

    def run(self, logits: Tensor, generation: Generation) -> Iterator[int]:
        """Token ids as they come, at most `generation.max_tokens`; stop whenever you like.

        Args:
            logits: [1, vocabulary], of the prompt's last token.
        """
        for tokens in self.run_together(logits, [generation]):
            yield tokens[0]

    def run_together(self, logits: Tensor, generations: Sequence[Generation]) -> Iterator[tuple[int, ...]]:
        """A token of every sequence at a time, as they were seated; who has enough of its own leaves the rest unread.

        Args:
            logits: [S, vocabulary], of the prompts' last tokens.
            generations: one a sequence; all greedy or none, all with a nucleus or none.
        """
        if not len(logits) == len(generations) == self._seated:
            raise ValueError(f"{self._seated} sequences were loaded, not {len(logits)}")
        if len({_mode(generation) for generation in generations}) > 1:
            raise ValueError("sequences that are drawn in different ways cannot share steps")
        return (self._run_device if self.on_device else self._run_host)(logits, generations)

    @torch.inference_mode()
    def store(self, cache: CompactCache) -> None:
        """Append what the model has read of the first sequence to `cache`, as if the stock path had done it."""
        if self._buffers is None or not self.fed:
            return
        keys, values = self._buffers.pool.appended(self.fed)
        for layer, key, value in zip(cache.layers, keys, values, strict=True):
            layer.update(key[None], value[None])

    @torch.inference_mode()
    def step(self) -> Tensor:
        """Read tokens number `step`; logits of the next, float32 [S, vocabulary]. It is what the graph holds."""
        weights, kernels, buffers, width = self.weights, self.kernels, self._loaded, self._wide
        hidden = kernels.embed(self.embedding, buffers.tokens(width), buffers.step)
        cos, sin = buffers.cos[:width], buffers.sin[:width]
        for index, layer in enumerate(weights.layers):
            norms = None if layer.q_norm is None or layer.k_norm is None else (layer.q_norm, layer.k_norm)
            qkv = kernels.norm_linear(hidden, layer.attention_norm, weights.epsilon, layer.qkv, layer.qkv_bias)
            lists = buffers.pool.lists(index, width)
            out = kernels.attend(qkv, lists, buffers.step, cos, sin, norms, weights.epsilon, weights.scaling)
            kernels.add_linear(hidden, out, layer.out)
            inner = kernels.norm_gated(hidden, layer.mlp_norm, weights.epsilon, layer.gate_up)
            kernels.add_linear(hidden, inner, layer.down)
        return kernels.logits(hidden, weights.norm, weights.epsilon, weights.head)

    @torch.inference_mode()
    def logits_after(self, tokens: list[int]) -> Tensor:
        """Read the last of these, the first that follow what was loaded; logits of the next, float32 [vocabulary]."""
        buffers = self._loaded
        own = buffers.tokens(1)[: len(tokens), 0]
        own.copy_(torch.tensor(tokens))
        buffers.step.fill_(len(tokens) - 1)
        return self.step()[0]

    @property
    def _wide(self) -> int:
        """Sequences in a step. On a device a power of two, for the sake of fewer kernels: the last one comes twice."""
        return _width(self._seated) if self.on_device else self._seated

    def _run_host(self, logits: Tensor, generations: Sequence[Generation]) -> Iterator[tuple[int, ...]]:
        buffers, samplers = self._loaded, [Sampler(generation, logits.device) for generation in generations]
        own = buffers.tokens(self._seated)
        for index in range(self._limit(generations)):
            with torch.inference_mode():
                if index:
                    buffers.step.fill_(index - 1)
                    logits = self.step()
                tokens = tuple(int(sampler.next(row[None])) for sampler, row in zip(samplers, logits, strict=True))
                own[index] = torch.tensor(tokens)
            self.drawn = index + 1
            yield tokens

    def _run_device(self, logits: Tensor, generations: Sequence[Generation]) -> Iterator[tuple[int, ...]]:
        limit = self._limit(generations)
        mode = self._begin(logits, generations)
        self._send(0)
        for index in range(limit):
            more = index + 1 < limit
            at_once = (self._wide, mode) in self._graphs or self.no_graph is not None  # else a capture holds it back
            if more and at_once:
                self._advance(mode)
                self._send(index + 1)
            tokens = self._received(index)
            self.drawn = index + 1
            yield tokens
            if more and not at_once:
                self._advance(mode)
                self._send(index + 1)

    def _limit(self, generations: Sequence[Generation]) -> int:
        return min(max(generation.max_tokens for generation in generations), self._room)

    @torch.inference_mode()
    def _begin(self, logits: Tensor, generations: Sequence[Generation]) -> str:
        """Set the dials and draw the first tokens."""
        mode = _mode(generations[0])
        buffers, width, last = self._loaded, self._wide, self._seated - 1
        seats = [min(seat, last) for seat in range(width)]
        for table in (buffers.pool.start, buffers.pool.kept):
            table[:, last + 1 : width] = table[:, last : last + 1]
        for table in (buffers.cos, buffers.sin):
            table[last + 1 : width] = table[last]
        chosen = [generations[seat] for seat in seats]
        buffers.step.fill_(-1)
        buffers.seed[:width] = torch.tensor([generation.seed for generation in chosen])
        buffers.dials[:width] = torch.tensor([[generation.temperature, float("-inf")] for generation in chosen])
        buffers.top_p[:width] = torch.tensor([[generation.top_p] for generation in chosen])
        self._draw(logits[seats].float(), mode)
        return mode

    def _draw(self, logits: Tensor, mode: str) -> None:
        from purekv_cli.kernels.decode import sampling

        buffers, width = self._loaded, self._wide
        dials = buffers.dials[:width]
        if mode == "nucleus":  # one by one: a sum over rows of a matrix may be taken in another order
            for row, dial, top_p in zip(logits, dials, buffers.top_p, strict=False):
                dial[1:].copy_(sampling.nucleus_floor(row, dial[:1], top_p))
        tokens = buffers.tokens(width)
        sampling.draw(logits, dials, buffers.seed, buffers.step, tokens, buffers.done, greedy=mode == "greedy")

    @torch.inference_mode()
    def _advance(self, mode: str) -> None:
        """Launch the next step."""
        if self.no_graph is not None:
            self._draw(self.step(), mode)
            return
        if (self._wide, mode) not in self._graphs:
            self._capture(mode)
        if (self._wide, mode) in self._graphs:
            self._graphs[self._wide, mode].replay()
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
            self._graphs[self._wide, mode] = graph
            self.captures += 1
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.no_graph = f"capturing a CUDA graph failed: {str(error).splitlines()[0][:120]}"
        buffers.step.copy_(step)

    @torch.inference_mode()
    def _send(self, index: int) -> None:
        buffers, width = self._loaded, self._wide
        buffers.pinned[index, :width].copy_(buffers.tokens(width)[index], non_blocking=True)
        buffers.events[index % 2].record()

    def _received(self, index: int) -> tuple[int, ...]:
        buffers = self._loaded
        buffers.events[index % 2].synchronize()
        return tuple(buffers.pinned[index, : self._seated].tolist())


def _width(seats: int) -> int:
    """The next power of two."""
    return 1 << (seats - 1).bit_length()


def _mode(generation: Generation) -> str:
    return "greedy" if generation.temperature == 0 else "sample" if generation.top_p == 1 else "nucleus"


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
