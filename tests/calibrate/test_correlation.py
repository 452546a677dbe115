"""Correlations between layers, against attention that is written out."""

import math

import pytest
import torch

from purekv_cli.calibrate import correlation
from purekv_cli.calibrate.correlation import OBSERVED, correlations, summed_up
from purekv_cli.calibrate.ranks import spearman
from purekv_cli.eval.replay_judge import ReadPrompt
from purekv_cli.kernels.attention import attention
from purekv_cli.method.config import Observe
from purekv_cli.runtime.prompt import Prompt
from purekv_cli.runtime.states import States
from tests.method.prompts import prompt

LAYERS, HEADS, KV_HEADS, DIM, SCALING = 3, 4, 2, 8, 0.35


@pytest.fixture(scope="module")
def read() -> ReadPrompt:
    """Random layers over a prompt with 5 x 3 x 3 video tokens: more than the 32 rows that speak for a video."""
    layout = prompt((5, 3, 3), before=3, after=4)
    generator = torch.Generator().manual_seed(1)
    states = []
    for _ in range(LAYERS):
        query = torch.randn(1, HEADS, layout.length, DIM, generator=generator) * 2
        key, value = (torch.randn(1, KV_HEADS, layout.length, DIM, generator=generator) for _ in range(2))
        _, lse = attention(query, key, value, SCALING, causal=True, need_lse=True)
        states.append(States(query, key, value, lse, torch.zeros(1, 1, layout.length, 1)))
    return ReadPrompt(Prompt.of_layouts([layout]), states, SCALING)


def written_out(read: ReadPrompt, layer: int, head: int, rows: list[int]) -> torch.Tensor:
    """Attention mass of the video's tokens: softmax row by row."""
    states = read.states[layer]
    mass = torch.zeros(read.prompt.length)
    for query_head in range(head * HEADS // KV_HEADS, (head + 1) * HEADS // KV_HEADS):
        for row in rows:
            scores = states.key[0, head, : row + 1] @ states.query[0, query_head, row] * SCALING
            mass[: row + 1] += scores.softmax(-1)
    return mass[read.masks.video[0]]


@pytest.mark.parametrize("observe", OBSERVED)
def test_every_pair_of_layers_is_that_of_attention_written_out(read: ReadPrompt, observe: Observe) -> None:
    length = read.prompt.length
    rows = {"question": range(length - 4, length), "video": range(3 + 45 - 32, 3 + 45), "all": range(length)}[observe]
    mass = [[written_out(read, layer, head, list(rows)) for head in range(KV_HEADS)] for layer in range(LAYERS)]
    found = correlations(read, observe)
    assert found.shape == (2, LAYERS, LAYERS, KV_HEADS)
    for source in range(LAYERS):
        for layer in range(LAYERS):
            for head in range(KV_HEADS):
                norms = read.states[layer].value[0, head, read.masks.video[0]].norm(dim=-1)
                plain = spearman(mass[source][head], mass[layer][head])
                valued = spearman(mass[source][head] * norms, mass[layer][head])
                assert found[:, source, layer, head].tolist() == pytest.approx([float(plain), float(valued)], abs=1e-4)


def test_less_memory_gives_the_same(read: ReadPrompt, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = correlations(read, "question")
    monkeypatch.setattr(correlation, "_SORTED", 1)
    assert torch.equal(correlations(read, "question"), whole)


def test_mean_and_spread_are_over_prompts_and_heads() -> None:
    found = [torch.tensor([[[[0.1, 0.3]]], [[[1.0, math.nan]]]]), torch.tensor([[[[0.5, 0.7]]], [[[0.0, 0.5]]]])]
    matrix = summed_up("video", found)
    assert (float(matrix.plain), float(matrix.valued), matrix.samples) == (pytest.approx(0.4), pytest.approx(0.5), 4)
    assert float(matrix.spread[0]) == pytest.approx(math.sqrt((0.3**2 + 0.1**2) * 2 / 4))
