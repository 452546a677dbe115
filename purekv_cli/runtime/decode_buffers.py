"""What a step of decoding reads and writes beside the weights: it keeps its place, so that a graph may rely on it."""

import torch
from torch import Tensor

from purekv_cli.runtime.decode_pool import DecodePool
from purekv_cli.runtime.weights import DecoderWeights


class Buffers:
    """For answers of up to `tokens` tokens to up to `seats` prompts, whose caches hold `rows` entries for now."""

    def __init__(self, weights: DecoderWeights, rows: int, tokens: int, seats: int) -> None:
        device, dim = weights.device, weights.head_dim
        self.pool = DecodePool(len(weights.layers), weights.kv_heads, rows, weights.norm.new_empty(0, dim), seats)
        self.cos = torch.zeros(seats, tokens, dim, dtype=weights.dtype, device=device)
        self.sin = torch.zeros_like(self.cos)
        self._tokens = torch.zeros(tokens * seats, dtype=torch.int64, device=device)
        self.step = torch.zeros(1, dtype=torch.int64, device=device)
        self.seed = torch.zeros(seats, dtype=torch.int64, device=device)
        self.dials = torch.zeros(seats, 2, dtype=torch.float32, device=device)  # temperature, lowest logit
        self.top_p = torch.ones(seats, 1, dtype=torch.float32, device=device)
        self.done = torch.zeros(1 + seats, dtype=torch.int32, device=device)
        self.pinned = torch.zeros(tokens, seats, dtype=torch.int64, pin_memory=device.type == "cuda")
        self.events = [torch.cuda.Event() for _ in range(2)] if device.type == "cuda" else []

    def tokens(self, seats: int) -> Tensor:
        """int64 [n, seats]: every step's tokens lie together."""
        count = self.cos.shape[1]
        return self._tokens[: count * seats].view(count, seats)

    def fit(self, tokens: int, seats: int) -> bool:
        """Whether answers of so many tokens to so many prompts have room, their caches apart."""
        return tokens <= self.cos.shape[1] and seats <= len(self.cos)
