"""Whether an answer may share its steps with others: only where it stays the same, to the last bit."""

import torch
from torch import Tensor

from purekv_cli.kernels.decode import Kernels
from purekv_cli.runtime.weights import DecoderWeights


def same_alone(kernels: Kernels, weights: DecoderWeights, seats: int) -> bool:
    """Whether the products of several vectors are bitwise those of each, with a layer of the model and its head."""
    layer, epsilon = weights.layers[0], weights.epsilon
    generator = torch.Generator(weights.device).manual_seed(0)
    hidden = torch.randn(seats, len(weights.norm), generator=generator, device=weights.device)

    def products(hidden: Tensor) -> list[Tensor]:
        qkv = kernels.norm_linear(hidden, layer.attention_norm, epsilon, layer.qkv, layer.qkv_bias)
        summed = hidden.clone()
        kernels.add_linear(summed, qkv[:, : layer.out.shape[1]].contiguous(), layer.out)
        kernels.add_linear(summed, kernels.norm_gated(summed, layer.mlp_norm, epsilon, layer.gate_up), layer.down)
        return [qkv, summed, kernels.logits(summed, weights.norm, epsilon, weights.head)]

    with torch.inference_mode():
        alone = [products(row[None].clone()) for row in hidden]
        return all(
            torch.equal(together, torch.cat(each))
            for together, each in zip(products(hidden), zip(*alone, strict=True), strict=True)
        )
