"""Spearman's rank correlation, vectorised: Pearson's of ranks, equal values sharing the mean of their places."""

import torch
import torch.nn.functional as F
from torch import Tensor


def ranks(values: Tensor) -> Tensor:
    """Places from 0 along the last axis, float32 of the same shape; equal values get the mean of theirs."""
    ordered, order = values.sort(-1)
    place = torch.arange(values.shape[-1], device=values.device).expand_as(order)
    differs = ordered[..., 1:] != ordered[..., :-1]
    first = torch.where(F.pad(differs, (1, 0), value=True), place, 0).cummax(-1).values
    last = torch.where(F.pad(differs, (0, 1), value=True), place, values.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    return torch.empty_like(values, dtype=torch.float32).scatter_(-1, order, (first + last) / 2)


def standard_ranks(values: Tensor) -> Tensor:
    """Ranks with mean 0 and length 1 along the last axis, so that a dot product is Spearman's rho; NaN if all equal."""
    centred = ranks(values) - (values.shape[-1] - 1) / 2
    return centred / centred.norm(dim=-1, keepdim=True)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """rho along the last axis, float32 [...]; NaN where one of both is constant."""
    return (standard_ranks(a) * standard_ranks(b)).sum(-1)
