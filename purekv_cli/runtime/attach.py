"""`attach(model, config)`: inside the `with` block a transformers model runs PureKV, on leaving it is as it was.

`model.generate()` in all its ways and the bare forward loop go on working, because only four things change: the
attention implementation of the text decoder, the cache that is used when none is given, the positions of video prompts
(transformers 5.17 and 5.23 compute them wrongly for text after a video, so ours are passed), and the decoder's forward,
which is told what prompt it sees and may cut it into chunks.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from purekv_cli.errors import UsageError
from purekv_cli.method.config import MethodConfig
from purekv_cli.method.layout import VideoLayout
from purekv_cli.method.pattern import build, content_change
from purekv_cli.runtime.attention import NAME, STATE, AttentionState, register
from purekv_cli.runtime.cache import CompactCache
from purekv_cli.runtime.describe import describe
from purekv_cli.runtime.metrics import KVMeter, StageClock
from purekv_cli.runtime.prefill import Prefill
from purekv_cli.runtime.prompt import Prompt

_DEEPSTACK = ("visual_pos_masks", "deepstack_visual_embeds")  # per-token extras that chunks would have to follow


class Attached:
    """What `attach` yields: the last cache, what it kept, and what that cost."""

    def __init__(self, model: PreTrainedModel, config: MethodConfig, layouts: Sequence[VideoLayout]) -> None:
        self.model: Any = model
        self.config = config
        self.decoder: Any = model.get_decoder()  # a PreTrainedModel: embeddings in, hidden states out
        self.cache: CompactCache | None = None
        self.meter = KVMeter()
        self.clock: StageClock | None = None
        self.sparse = False  # whether ST-SpAttn ran in the last prefill
        self._layouts = layouts
        self._state = AttentionState()
        self._prefill: tuple[CompactCache, Prefill] | None = None
        text = self.decoder.config
        self._head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self._base: Any = model.base_model
        self._has_mrope = hasattr(self._base, "rope_deltas")
        self._forward: Callable[..., Any] = self.decoder.forward

    @property
    def kept(self) -> list[Tensor]:
        """Logical positions in the last cache, per layer int64 [B, Hkv, P], -1 in holes."""
        return [] if self.cache is None else self.cache.kept

    @property
    def kv_bytes(self) -> int:
        """Bytes of the last cache's K and V tensors."""
        return 0 if self.cache is None else self.cache.kv_bytes()

    @property
    def kv_bytes_peak(self) -> int:
        """The most K and V bytes alive at once in any prefill so far."""
        return self.meter.peak

    def new_cache(self, prompt: Prompt | None = None) -> CompactCache:
        """An empty cache for one batch of prompts; what is not said of the prompt is read from the first forward."""
        self.cache = CompactCache(len(self.decoder.layers))
        self.cache.prompt = prompt
        return self.cache

    def before_generate(self, ids: Tensor | None, given: dict[str, Any]) -> None:
        """Give `generate` a compact cache and the right positions."""
        cache = given.get("past_key_values")
        if isinstance(cache, CompactCache) and cache.get_seq_length() > 0:
            self.cache = cache
            if self._has_mrope and cache.prompt is not None:
                self._base.rope_deltas = cache.prompt.delta
            return
        if ids is None or (cache is not None and not isinstance(cache, CompactCache)):
            return
        self._start(ids, given, cache)

    def before_forward(
        self, _module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]
    ) -> tuple[Any, Any] | None:
        """Forward pre-hook of the model: the same for a loop that calls it directly."""
        if given.get("use_cache") is False or self.model.training:
            return None
        ids = args[0] if args else given.get("input_ids")
        cache = given.get("past_key_values")
        if cache is not None and not isinstance(cache, CompactCache):
            return None
        if cache is None or (cache.get_seq_length() == 0 and cache.prompt is None):
            if ids is None:
                given["past_key_values"] = cache or self.new_cache()
            else:
                self._start(ids, given, cache)
        elif given.get("position_ids") is None and ids is not None and cache.prompt and cache.prompt.delta is not None:
            given["position_ids"] = _continued(ids, cache, cache.prompt.delta, given.get("attention_mask"))
        return args, given

    def _start(self, ids: Tensor, given: dict[str, Any], cache: CompactCache | None) -> None:
        prompt, positions = describe(self.model, ids, given, self._layouts)
        if cache is None:
            cache = self.new_cache()
        self.cache, cache.prompt = cache, prompt
        given["past_key_values"] = cache
        if positions is not None and given.get("position_ids") is None:
            given["position_ids"] = positions
            self._base.rope_deltas = prompt.delta

    def run_decoder(self, *args: Any, **kwargs: Any) -> Any:
        """The decoder's forward: says what it sees to the attention layers, and cuts a prompt into chunks."""
        cache = kwargs.get("past_key_values")
        if not isinstance(cache, CompactCache):
            return self._forward(*args, **kwargs)
        if args:
            kwargs["input_ids"] = args[0]
        name = "inputs_embeds" if kwargs.get("inputs_embeds") is not None else "input_ids"
        tokens: Tensor = kwargs[name]
        start, count = cache.get_seq_length(), tokens.shape[1]
        prefill = self._prefill_of(cache, tokens, start, kwargs.get("position_ids"))
        self._state.cache, self._state.prefill = cache, prefill
        try:
            if prefill is None:
                return self._forward(**kwargs)
            if cache.prompt is not None and cache.prompt.deepstack:
                extras = cache.prompt.masks.video, list(cache.prompt.deepstack)
                kwargs.update(zip(_DEEPSTACK, extras, strict=True))
            step = self.config.chunk
            if step is None or step >= count or any(kwargs.get(key) is not None for key in _DEEPSTACK):
                prefill.begin(start, start + count)
                return self._forward(**kwargs)
            return self._chunks(kwargs, name, prefill, start, step)
        finally:
            self._state.cache = self._state.prefill = None
            if prefill:
                self.sparse = prefill.sparse
                if prefill.over(cache.get_seq_length()):
                    self._prefill = None

    def _chunks(self, kwargs: dict[str, Any], name: str, prefill: Prefill, start: int, step: int) -> Any:
        tokens, mask, positions = kwargs[name], kwargs.get("attention_mask"), kwargs.get("position_ids")
        hidden: list[Tensor] = []
        out: Any = None
        for low in range(0, tokens.shape[1], step):
            high = min(low + step, tokens.shape[1])
            part = {**kwargs, name: tokens[:, low:high]}
            if mask is not None and mask.dim() == 2:
                part["attention_mask"] = mask[:, : start + high]
            if positions is not None:
                part["position_ids"] = positions[..., low:high]
            prefill.begin(start + low, start + high)
            out = self._forward(**part)
            hidden.append(out.last_hidden_state)
        out.last_hidden_state = torch.cat(hidden, 1)
        return out

    def _prefill_of(self, cache: CompactCache, tokens: Tensor, start: int, positions: Tensor | None) -> Prefill | None:
        """The prefill this forward belongs to; None once the prompt has been read."""
        if start == 0:
            self._prefill = None
            if cache.prompt is None:
                return None
            prompt: Prompt = cache.prompt.to(tokens.device)
            prompt.expand(tokens.shape[0])
            cache.prompt = prompt
            if positions is None:  # what a decoder takes when it is not told
                positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
            text = self.decoder.config
            per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * self._head_dim
            prefill = Prefill(
                self.config,
                prompt,
                len(cache.layers),
                per_token * self.model.dtype.itemsize,
                runs=self._pattern(prompt, tokens),
                meter=self.meter,
                clock=self.clock,
                decoder=self.decoder,
                positions=positions,
            )
            if prefill.holds and min(tokens.shape[1], self.config.chunk or prompt.length) < prompt.length:
                for layer in cache.layers:
                    layer.reserve(prompt.length)
            self._prefill = (cache, prefill)
        if self._prefill is None or self._prefill[0] is not cache or self._prefill[1].over(start):
            return None
        return self._prefill[1]

    def _pattern(self, prompt: Prompt, tokens: Tensor) -> Any:
        """ST-SpAttn's runs for a long prompt of one video that comes whole; None: dense."""
        sparse, layout = self.config.sparse, prompt.layout
        whole = self.config.chunk is None or self.config.chunk >= prompt.length
        if not sparse.enabled or layout is None or layout.more or prompt.length < sparse.min_tokens or not whole:
            return None
        if tokens.dim() != 3 or tokens.shape[:2] != (1, prompt.length):
            return None
        content = content_change(tokens[0, layout.video.to(tokens.device)], layout.grid)
        return build(layout, sparse, content)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Change the model, and put everything back."""
        register()
        decoder, model = self.decoder, self.model
        if getattr(decoder, "purekv_attached", False):
            raise UsageError("PureKV is already attached to this model", "Leave the first `with attach(...)` block.")
        modules = [layer.self_attn for layer in decoder.layers]
        before = decoder.config._attn_implementation
        deltas = getattr(self._base, "rope_deltas", None)
        own = {(target, key): vars(target).get(key) for target, key in ((decoder, "forward"), (model, "generate"))}
        self._forward = decoder.forward
        hook = model.register_forward_pre_hook(self.before_forward, with_kwargs=True)
        try:
            _set_attention(model, decoder, NAME)
            for module in modules:
                setattr(module, STATE, self._state)
            decoder.purekv_attached = True
            decoder.forward = self.run_decoder
            model.generate = _generate(self, model.generate)
            yield
        finally:
            hook.remove()
            for (target, key), value in own.items():
                if value is not None:
                    setattr(target, key, value)
                elif key in vars(target):
                    delattr(target, key)
            for module in modules:
                if hasattr(module, STATE):
                    delattr(module, STATE)
            if hasattr(decoder, "purekv_attached"):
                del decoder.purekv_attached
            _set_attention(model, decoder, before)
            if self._has_mrope:
                self._base.rope_deltas = deltas
            self._prefill = None


@contextmanager
def attach(
    model: PreTrainedModel,
    config: MethodConfig | None = None,
    *,
    layout: VideoLayout | Sequence[VideoLayout] | None = None,
) -> Iterator[Attached]:
    """Run PureKV inside a transformers model.

    Args:
        model: a causal language model with a video tower, or a text-only one when `layout` is given.
        config: policy, budget and pattern; the defaults of `MethodConfig` if None.
        layout: where the video lies in every prompt; None: found by the model's video token.

    Raises:
        UsageError: the budget can't hold the prompt's text, or the model is attached already.

    Example:
        >>> with attach(model, MethodConfig(budget=Budget.parse("20%"))) as purekv:
        ...     model.generate(**inputs, max_new_tokens=64)
        ...     print(purekv.kv_bytes)
    """
    layouts = [] if layout is None else [layout] if isinstance(layout, VideoLayout) else list(layout)
    attached = Attached(model, config or MethodConfig(), layouts)
    with attached.installed():
        yield attached


def _generate(attached: Attached, original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def generate(inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        attached.before_generate(kwargs.get("input_ids", inputs), kwargs)
        return original(inputs, *args, **kwargs)

    return generate


def _continued(ids: Tensor, cache: CompactCache, delta: Tensor, mask: Tensor | None) -> Tensor:
    """Positions [4, B, n] of text `ids` after what the cache has seen."""
    batch, new = ids.shape
    if mask is not None and mask.shape[1] >= new:
        text = (mask.long().cumsum(-1) - 1)[:, -new:]
    else:
        start = cache.get_seq_length()
        text = torch.arange(start, start + new, device=ids.device).expand(batch, -1)
    return torch.cat([text[None], (text + delta.to(ids.device)).expand(3, -1, -1)])


def _set_attention(model: PreTrainedModel, decoder: nn.Module, name: str) -> None:
    """Only the text decoder's: a plain name would reach the vision tower too."""
    text = decoder.config is not model.config and "text_config" in getattr(model.config, "sub_configs", {})
    model.set_attn_implementation({"text_config": name} if text else name)
