"""The training loop's parts: what they say they do, on a CPU and in seconds."""

import math
from pathlib import Path

import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from purekv_cli.demo.batches import IGNORED, BatchPlan, cells, make_batch
from purekv_cli.demo.muon import Muon, orthogonalise
from purekv_cli.demo.staging import GLYPHS, LAMPS, NO_EVENT, STORY
from purekv_cli.demo.train import (
    WARM_UP_STEPS,
    Settings,
    Trainer,
    answer_loss,
    cell_labels,
    degrade,
    draw_planes,
)
from purekv_cli.demo.world import COLOURS, MERGED_CELL, MOST_EVENTS

CPU = torch.device("cpu")
TINY = BatchPlan(seed=2, clips=2, patches=4, height=168, width=168, shorts=2, longs=1)


def trainer(folder: Path) -> Trainer:
    return Trainer(
        Settings(
            seconds=1, total=1, checkpoint=folder / "state.pt", out=folder / "model", workers=1, visual_tokens=288,
            learning_rate=2e-3, compiled=False, evaluate_every=1e9,
        ),
        CPU,
    )  # fmt: skip


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 24, 40), (2, 40, 24), (1, 32, 32)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.3
        assert values.max() < 1.4


def test_muon_goes_downhill() -> None:
    torch.manual_seed(0)
    goal = torch.randn(12, 20)
    weight = torch.nn.Parameter(torch.zeros(12, 20))
    muon = Muon([weight], weight_decay=0.0)
    distances = []
    for _ in range(40):
        loss = (weight - goal).square().mean()
        distances.append(loss.item())
        weight.grad = torch.autograd.grad(loss, weight)[0]
        muon.step(0.05)
    assert distances[-1] < 0.5 * distances[0]


def test_answers_weigh_the_root_of_their_length() -> None:
    logits = torch.zeros(1, 5, 2)
    logits[0, 3:, 1] = 9.0  # right (token 1) in the second segment, undecided in the first
    targets = torch.tensor([[1, IGNORED, IGNORED, 1, 1]])
    loss = answer_loss(logits, targets, (3, 2))
    undecided, sure, root = math.log(2), math.log1p(math.exp(-9)), math.sqrt(2)
    assert loss.item() == pytest.approx((undecided + root * sure) / (1 + root), rel=1e-5)


def test_cell_labels_lie_under_the_things() -> None:
    batch = make_batch(TINY)
    grid = cell_labels(batch, CPU)
    rows, columns = cells(TINY)
    assert grid.shape == (TINY.clips * TINY.patches, rows * columns, 2 + STORY)
    most = [len(GLYPHS), len(COLOURS), NO_EVENT - 1, MOST_EVENTS, NO_EVENT, len(COLOURS), len(GLYPHS)]
    assert grid.amax((0, 1)).le(torch.tensor(most)).all()
    at = batch.slots[1]  # the second frame of the first patch: what labels speak of
    for slot in range(LAMPS, len(at)):
        if at[slot, 7] > 0.5:
            cell = int(at[slot, 1] // MERGED_CELL) * columns + int(at[slot, 0] // MERGED_CELL)
            assert grid[0, cell, 0] > 0
            assert grid[0, cell, 1] > 0
    shown = {(int(slot[0] // MERGED_CELL), int(slot[1] // MERGED_CELL)) for slot in at[LAMPS:] if slot[7] > 0.5}
    assert int((grid[0, :, 0] > 0).sum()) == len(shown)


def test_codec_noise_keeps_the_picture() -> None:
    planes = draw_planes(make_batch(TINY), CPU)
    generator = torch.Generator().manual_seed(0)
    changed = 0
    for _ in range(20):
        noisy = degrade(planes, generator)
        error = torch.stack([(a.float() - b.float()).abs().mean() for a, b in zip(noisy, planes, strict=True)])
        changed += bool(error.max() > 0)
        assert error.max() < 8
    assert 2 <= changed <= 12  # three batches of ten


def test_a_step_learns_and_a_checkpoint_goes_on_from_there(tmp_path: Path) -> None:
    batch = make_batch(TINY)
    first = trainer(tmp_path)
    first.steps = WARM_UP_STEPS
    before = first.step(batch, 0.2).item()
    with torch.no_grad():
        assert first.loss(batch, 1.0)[1].item() < 0.95 * before
    first.save_checkpoint()
    second = trainer(tmp_path)
    assert second.steps == WARM_UP_STEPS + 1
    for ours, theirs in zip(first.muon.state(), second.muon.state(), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)

    first.save_model()
    saved = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=torch.float32)
    for ours, theirs in zip(first.model.model.parameters(), saved.parameters(), strict=True):
        assert torch.equal(ours.bfloat16().float(), theirs)  # a saved model is in bf16


def test_the_learning_rate_warms_up_stays_and_falls_to_zero(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    assert one.learning_rate(0.0) < 0.02 * one.settings.learning_rate
    one.steps = 1000
    assert one.learning_rate(0.5) == one.settings.learning_rate
    assert one.learning_rate(0.1) == one.learning_rate(0.3) == pytest.approx(one.settings.learning_rate / math.sqrt(2))
    assert one.learning_rate(0.75) == pytest.approx(one.settings.learning_rate / 2)
    assert one.learning_rate(1.0) == one.learning_rate(1.1) == 0
