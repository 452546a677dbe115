"""How much arithmetic and memory traffic a run consists of: what TFLOP/s and the decode floor are computed from.

A dense row is credited with the dense model's work. A pruned row is credited only with what it really computes: fewer
tokens above the propagation layer, fewer pairs of a sparse pattern. So a pruned row cannot look efficient by leaving
work out; what it gains shows in its time.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from purekv_cli.method.config import MethodConfig
from purekv_cli.method.propagate import flowing_count


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of one text decoder."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    linear: int  # parameters of a layer's matrices
    kv_linear: int  # those of them that make keys and values, which every token that a layer sees needs
    head: int  # parameters of the output head
    bytes_per_value: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Sizes":
        """Counted from the model's own tensors."""
        decoder: Any = model.get_decoder()
        config = decoder.config
        first: Any = decoder.layers[0]
        linear = sum(part.weight.numel() for part in first.modules() if isinstance(part, nn.Linear))
        keys_values = sum(part.weight.numel() for part in (first.self_attn.k_proj, first.self_attn.v_proj))
        head: Any = model.get_output_embeddings()
        heads = config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        width = head.weight.element_size()
        layers = config.num_hidden_layers
        kv_heads = config.num_key_value_heads
        return cls(layers, heads, kv_heads, dim, linear, keys_values, head.weight.numel(), width)

    def kv_bytes(self, tokens: float) -> float:
        """K and V of that many tokens in all layers and heads."""
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens * self.bytes_per_value

    @property
    def weight_bytes(self) -> int:
        """What one decoded token has to read of the weights."""
        return (self.layers * self.linear + self.head) * self.bytes_per_value

    def entries(self, config: MethodConfig, tokens: int, text: int) -> int:
        """Cache entries that the budget keeps, per layer and KV head."""
        if config.policy == "dense":
            return tokens
        return config.budget.entries(tokens, text, int(self.kv_bytes(1)))

    def flow(self, config: MethodConfig, tokens: int, text: int) -> int:
        """How many tokens go through the layers above the propagation layer; all of them without one."""
        way = config.propagate
        if way is None or not 0 < way.layer < self.layers:
            return tokens
        return flowing_count(way, tokens, self.entries(config, tokens, text), text)

    def prefill_flops(
        self,
        config: MethodConfig,
        tokens: int,
        text: int,
        density: float = 1.0,
        *,
        above: float = 1.0,
        trims: bool = False,
    ) -> float:
        """Multiplications and additions of one prefill as `config` runs it.

        Args:
            text: tokens of the prompt that are not video.
            density: pairs that attention reads, as a share of dense causal ones; of the layers that see all tokens.
            above: the same of the layers that only some tokens flow through.
            trims: whether the last layer computes queries, output and MLP of the last token alone, as ours does.
        """
        flow, first = self.flow(config, tokens, text), self.layers  # tokens that flow from layer `first` on
        if flow < tokens and config.propagate is not None:
            first = config.propagate.layer
        total = 2.0 * self.head
        for index in range(self.layers):
            seen = flow if index >= first else tokens
            going = flow if index >= first - 1 else tokens
            if trims and index == self.layers - 1:
                going = 1
            pairs = seen * (seen + 1) / 2 * (density if index < first else above)
            total += 2.0 * (self.kv_linear * seen + (self.linear - self.kv_linear) * going)
            total += 4.0 * self.heads * self.head_dim * pairs * going / seen
        return total

    def decode_floor(self, kv_bytes: float, bandwidth: float) -> float:
        """Seconds a token cannot beat: weights and cache read once."""
        return (self.weight_bytes + kv_bytes) / bandwidth
