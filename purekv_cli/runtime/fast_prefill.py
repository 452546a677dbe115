"""The prefill of one whole prompt straight from the decoder's weights, with as little memory traffic as possible.

The stock path pays for its generality: three products where one does, a dozen elementwise kernels a layer, copies
between layouts, all rows of the last layer. Here a layer is seven kernels and its pruning. Keys and values are written
in the order that the sparse kernel reads, the question's rows are scored where they are needed, and nothing waits for
the device inside a layer. With propagation most tokens end below layer P: that layer still computes every token's key
and value, but queries, output and MLP only of those that flow on; the last layer does so for the last token alone.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from purekv_cli.kernels import fused
from purekv_cli.kernels.attention import attention
from purekv_cli.kernels.compact import compact
from purekv_cli.kernels.sparse_prefill import sparse_prefill
from purekv_cli.method import importance, propagate
from purekv_cli.method.budget import layer_entries
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.pattern import RunList, build, content_of
from purekv_cli.method.policies import drops_preamble, layer_weights, observes
from purekv_cli.runtime.cache import CompactCache
from purekv_cli.runtime.fast_layer import Parts, mlp, project, token_major
from purekv_cli.runtime.fast_scoring import Flow, Shown, make_scorer
from purekv_cli.runtime.metrics import KVMeter, StageClock
from purekv_cli.runtime.prompt import Prompt
from purekv_cli.runtime.rotary import rotary_of
from purekv_cli.runtime.states import States
from purekv_cli.runtime.weights import DecoderWeights, LayerWeights, Unsupported

Rows = Tensor | slice | None  # some tokens of the flow; None: all


def fast_prefill(
    weights: DecoderWeights,
    embeds: Tensor,
    positions: Tensor,
    prompt: Prompt,
    config: MethodConfig,
    cache: CompactCache,
    *,
    meter: KVMeter | None = None,
    clock: StageClock | None = None,
    tell: Callable[[int, int], None] | None = None,
    known: Sequence[States] | None = None,
) -> Tensor:
    """Read a prompt and fill an empty cache as the stock path would.

    Args:
        weights: of `read_weights`.
        embeds: [1, N, H].
        positions: rotary positions, [3, 1, N], [4, 1, N] with the text row first, or [1, N].
        prompt: what is known of it; all N tokens.
        config: policy, budget, pattern, propagation.
        cache: a fresh one; left as it is if this raises.
        meter: counts K and V bytes.
        clock: times the parts "scoring" (attention mass) and "pruning" (selection and compaction).
        tell: called after every layer with (layers done, layers).
        known: what a dense prefill of this prompt has shown: layers in which all tokens flow are looked up in it.

    Returns:
        The last token's hidden state after the final norm, [1, 1, H].

    Raises:
        Unsupported: this prompt or method needs the stock path, in words. The stock path knows no propagation.
        UsageError: the budget does not even hold the text.
    """
    if embeds.shape[0] != 1 or prompt.batch != 1:
        raise Unsupported("several prompts at once")
    if embeds.shape[1] != prompt.length or cache.get_seq_length():
        raise Unsupported("a prompt that continues or is continued")
    if config.chunk is not None and config.chunk < prompt.length:
        raise Unsupported("a prompt in chunks")
    with torch.no_grad():
        run = _FastPrefill(weights, positions, prompt, config, embeds, meter or KVMeter(), clock)
        return run.forward(embeds[0], cache, tell, known)


def uses_sparse(config: MethodConfig, prompt: Prompt) -> bool:
    """Whether a prompt that comes whole is read with ST-SpAttn."""
    one_video = prompt.layout is not None and not prompt.layout.more
    return config.sparse.enabled and one_video and prompt.length >= config.sparse.min_tokens


class _FastPrefill:
    def __init__(
        self,
        weights: DecoderWeights,
        positions: Tensor,
        prompt: Prompt,
        config: MethodConfig,
        embeds: Tensor,
        meter: KVMeter,
        clock: StageClock | None,
    ) -> None:
        self._weights, self._config, self._meter, self._clock = weights, config, meter, clock
        self._length, device = prompt.length, embeds.device
        layers = len(weights.layers)
        known = prompt.to(torch.device("cpu"))  # the device is waited for here, before the first layer
        masks = prompt.to(device).masks
        if not bool(known.masks.valid.all()):
            raise Unsupported("a padded prompt")
        per_token = 2 * layers * weights.kv_heads * weights.head_dim * embeds.element_size()
        self._entries = max(known.entries(config, per_token)[0], int(known.masks.protected.sum()))
        observed = importance.observed_rows(known.masks, observes(config))[0].nonzero()[:, 0]
        rotary = rotary_of(weights.rotary, positions, embeds[:, :1])
        self._cos, self._sin = rotary.cos[0], rotary.sin[0]  # [N, D]
        self._scorer = make_scorer(config, weights.scaling, observed, masks, layers, rotary)
        text, self._preamble = int(known.masks.protected.sum()), int(known.masks.preamble.sum())
        self._bare = drops_preamble(config, layers, self._preamble, self._entries, self._length)
        texts = [text - self._preamble if bare else text for bare in self._bare]
        self._budgets = layer_entries(self._entries, texts, self._length - text, layer_weights(config, layers))
        self._flow = Flow(masks)

        self._layout = prompt.layout if uses_sparse(config, prompt) else None
        self._content: Tensor | None = None
        self._video: Tensor | None = None  # positions of the tokens that `content` is about
        self._prunable: Tensor | None = None  # theirs and the sound's
        self._change: Tensor | None = None  # `content`, and nothing for the sound
        self._runs: RunList | None = None
        self._sparse = False  # whether a whole layer has read by a list
        self._key_rows: Tensor | None = None
        if prompt.layout is not None and len(prompt.layout.video) and (self._layout or config.propagate):
            self._video = prompt.layout.video.to(device)
            self._content = content_of(embeds[0, self._video], prompt.layout)
            self._prunable = prompt.layout.prunable.to(device)
            self._change = F.pad(self._content, (0, len(prompt.layout.audio)))  # of sound only its score counts
        if self._layout is not None:
            self._read(build(self._layout, config.sparse, self._content))

        self._narrow_at: int | None = None  # the layer above which only some tokens flow
        self._ends_at = self._scorer.ends_at()
        if self._ends_at is not None:
            if self._entries < self._length and self._ends_at < layers - 1:
                self._narrow_at = self._ends_at
        elif config.propagate is not None and self._entries < self._length and 0 < config.propagate.layer < layers:
            needed = known.masks.protected.clone()
            needed[0, -1] = True
            if observes(config) != "all":
                needed[0, observed] = True
            count = int(needed.sum())
            self._needed = needed.to(device)
            self._flowing = propagate.flowing_count(config.propagate, self._length, self._entries, count)
            if self._flowing < self._length:
                self._narrow_at = config.propagate.layer - 1
        self._deepstack = prompt.deepstack
        ends = layers - 1 if self._narrow_at is None else self._narrow_at  # the first layer that only some tokens leave
        if len(self._deepstack) > ends:
            fed = len(self._deepstack)
            raise Unsupported(f"its tower feeds the first {fed} layers, so tokens end from layer {fed + 1} on")
        if self._deepstack and self._video is None and prompt.layout is not None:
            self._video = prompt.layout.video.to(device)
        # A video token at the very end reads by its tile, which only the whole tile's attention gives.
        self._ends_in_video = bool(known.masks.video[0, -1])
        self._waiting: list[tuple[Shown, Flow]] = []
        self._kept: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # K, V and prompt positions

    def _read(self, runs: RunList | None) -> None:
        """From the next layer on queries read by this list; None: all keys."""
        self._runs, self._key_rows = runs, None
        if runs is not None:
            order = runs.key_order
            self._key_rows = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))

    def forward(
        self,
        hidden: Tensor,
        cache: CompactCache,
        tell: Callable[[int, int], None] | None,
        known: Sequence[States] | None,
    ) -> Tensor:
        """[1, 1, H] from embeddings [N, H]."""
        layers, epsilon, begin = self._weights.layers, self._weights.epsilon, 0
        if known is not None and self._layout is None:
            begin = len(layers) if self._narrow_at is None else self._narrow_at + 1
            hidden = self._recall(known[:begin])
        normed = fused.rms_norm(hidden, (*(each.attention_norm for each in layers), self._weights.norm)[begin], epsilon)
        for index, layer in enumerate(layers[begin:], begin):
            attended, hidden = self._attend(index, layer, normed, hidden)
            normed, hidden = fused.add_rms_norm(F.linear(attended, layer.out), hidden, layer.mlp_norm, epsilon)
            del attended
            update = mlp(layer, normed)
            if index < len(self._deepstack) and self._video is not None:
                update.index_add_(0, self._video, self._deepstack[index])
            following = layers[index + 1].attention_norm if index + 1 < len(layers) else self._weights.norm
            normed, hidden = fused.add_rms_norm(update, hidden, following, epsilon)
            del update
            if tell is not None:
                tell(index + 1, len(layers))
        for index, (key, value, positions) in self._kept.items():
            cache.layers[index].adopt(key, value, positions, self._length)
        cache.sparse, cache.propagated = self._sparse, self._narrow_at is not None
        return normed[-1:][None]

    def _recall(self, known: Sequence[States]) -> Tensor:
        """Score and prune layers that were read before; the hidden states of the tokens that flow on, [m, H]."""
        score: Tensor | None = None
        for index, layer in enumerate(known):
            suffix = self._scorer.rows(self._flow)
            lse = layer.lse[:, :, -suffix:] if self._needs_lse(index) else None
            score = self._observe(index, layer.query[:, :, -suffix:], lse, layer.key, layer.value, None)
        hidden = known[-1].hidden[0, 0]
        if self._narrow_at is None:
            return hidden
        rows = self._rows_on(self._narrow_at, score)
        self._narrow(rows)
        return hidden.index_select(0, rows)

    def _attend(self, index: int, layer: LayerWeights, normed: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Attention output [m, Hq * D] and residual [m, H] of the rows that go on; the layer's entries are pruned."""
        runs = None if self._needs_lse(index) else self._runs
        last = index == len(self._weights.layers) - 1 and not (runs is not None and self._ends_in_video)
        if last or index == self._narrow_at:
            return self._attend_some(index, layer, normed, hidden, runs)
        query, key, value = self._project(layer, normed, "qkv", self._key_rows if runs is not None else None)
        scaling, lse = self._weights.scaling, None
        if runs is not None:
            self._sparse = True
            out, _ = sparse_prefill(query, key, value, runs, scaling)
        else:
            out, lse = attention(query, key, value, scaling, causal=True, need_lse=self._needs_lse(index))
        suffix = self._scorer.rows(self._flow)
        self._observe(index, query[:, :, -suffix:], None if lse is None else lse[:, :, -suffix:], key, value, runs)
        return token_major(out), hidden

    def _attend_some(
        self, index: int, layer: LayerWeights, normed: Tensor, hidden: Tensor, runs: RunList | None
    ) -> tuple[Tensor, Tensor]:
        """The same where only some rows go on: keys and values of all tokens, queries where they are needed."""
        narrows, scaling = index == self._narrow_at, self._weights.scaling
        _, key, value = self._project(layer, normed, "kv", self._key_rows if runs is not None and narrows else None)
        if not narrows:
            runs = None  # in the prompt's order: text at the end reads everything
        suffix = self._scorer.rows(self._flow) if self._chooses else 1
        query, _, _ = self._project(layer, normed, "q", None, slice(-suffix, None))
        out, lse = None, None
        if self._needs_lse(index):
            out, lse = attention(query, key, value, scaling, causal=True, need_lse=True)
        score = self._observe(index, query, lse, key, value, runs)
        if not narrows:
            if out is None:
                out, _ = attention(query[:, :, -1:], key, value, scaling, causal=False)
            return token_major(out[:, :, -1:]), hidden[-1:]
        rows = self._rows_on(index, score)
        query, _, _ = self._project(layer, normed, "q", None, rows)
        sparse, above = self._config.sparse, None
        some = propagate.causal_rows(rows, self._flow.count)
        if self._layout is not None:
            if runs is not None:
                some = build(self._layout, sparse, self._content, rows=rows)
            if len(rows) >= sparse.min_tokens:
                above = build(self._layout, sparse, self._content, only=rows)
        out, _ = sparse_prefill(query, key, value, some, scaling)
        self._read(above)
        self._narrow(rows)
        return token_major(out), hidden.index_select(0, rows)

    def _narrow(self, rows: Tensor) -> None:
        """Only tokens `rows` of the flow go on."""
        self._scorer.narrow(rows)
        self._flow = self._flow.narrowed(rows)
        self._cos, self._sin = self._cos.index_select(0, rows), self._sin.index_select(0, rows)

    def _rows_on(self, index: int, score: Tensor | None) -> Tensor:
        """The tokens that flow on above layer `index`, int64 [m]."""
        if score is None:
            raise Unsupported(f"propagation from layer {index + 1} with a policy that has no score at layer {index}")
        if self._ends_at is not None:
            return self._scorer.flowing(score, self._entries)
        best = self._scorer.so_far(score)
        return propagate.flowing(best, self._needed, self._flowing, self._prunable, self._change)

    @property
    def _chooses(self) -> bool:
        """Whether more tokens flow than some layer will hold; otherwise all of them stay, and no score is needed."""
        return min(self._budgets) < self._flow.count or any(self._bare)

    def _needs_lse(self, index: int) -> bool:
        return self._chooses and self._scorer.needs_lse(index)

    def _select(self, index: int, score: Tensor, flow: Flow) -> Tensor:
        if not self._bare[index]:
            return self._scorer.select(score, min(self._budgets[index], flow.count), flow)
        count = min(self._budgets[index], flow.count - self._preamble)
        return self._scorer.select(score, count, flow.without_preamble())

    def _project(
        self, layer: LayerWeights, normed: Tensor, parts: Parts, key_rows: Tensor | None, rows: Rows = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated q, k, v of all tokens or of some."""
        cos, sin = self._cos, self._sin
        if isinstance(rows, Tensor):
            normed, cos, sin = (t.index_select(0, rows) for t in (normed, cos, sin))
        elif rows is not None:
            normed, cos, sin = normed[rows], cos[rows], sin[rows]
        return project(self._weights, layer, normed, cos, sin, parts, key_rows)

    def _observe(
        self, index: int, query: Tensor, lse: Tensor | None, key: Tensor, value: Tensor, runs: RunList | None
    ) -> Tensor | None:
        """Score and prune layer `index`, and those that waited for it; the score of its tokens."""
        self._meter.watch(key, value)
        source, order = (None, None) if runs is None else (self._key_rows, runs.key_order)
        out = self._weights.layers[index].out
        shown = Shown(index, query, lse, key, value, source, order, out)
        score = None
        if self._chooses:
            with self._part("scoring"):
                score = self._scorer.score(shown, self._flow)
            shown = Shown(index, None, None, key, value, source, order, out)
            if score is None or self._scorer.waits(index):
                self._waiting.append((shown, self._flow))
                return score
        with self._part("pruning"):
            self._prune(shown, score)
        return score

    def _prune(self, shown: Shown, score: Tensor | None) -> None:
        """Drop what does not stay, also in the layers that waited; `score` None: all that flows stays."""
        flow = self._flow
        rows = None if score is None else self._select(shown.index, score, flow)
        for late, its_flow in self._waiting:
            if flow.positions is not None and its_flow is not flow:  # the whole prompt's: they stay by the same score
                some = None if score is None else self._select(late.index, score, flow)
                self._keep(late, its_flow, flow.positions[None, None] if some is None else flow.positions[some])
                continue
            own = self._scorer.score(late, flow)
            if own is None:
                raise Unsupported(f"a policy without a score for layer {late.index}")
            self._keep(late, flow, self._select(late.index, own, flow))
        self._waiting.clear()
        self._keep(shown, flow, rows)

    def _keep(self, shown: Shown, flow: Flow, rows: Tensor | None) -> None:
        """Copy tokens `rows` of the flow to tensors of their own; None: all of them."""
        key, value = shown.key, shown.value
        every = torch.arange(flow.count, device=key.device)[None, None]
        if rows is not None or shown.source is not None:
            key, value = compact(key, value, every if rows is None else rows, source=shown.source)
            self._meter.watch(key, value)
        positions = every if rows is None else rows
        if flow.positions is not None:
            positions = flow.positions[positions.clamp(min=0)].masked_fill(positions < 0, -1)
        self._kept[shown.index] = key, value, positions

    def _part(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self._clock is None else self._clock.part(name)
