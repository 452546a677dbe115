"""The batched training forward is the stock model's forward: same weights, same prompt, same logits."""

import pytest
import torch

from purekv_cli.demo.batches import BatchPlan, cells, make_batch, prompt_tokens
from purekv_cli.demo.network import MERGE, TOKENS_PER_SECOND, TrainingModel, build_model, to_patches
from purekv_cli.demo.train import draw_planes


def golden_positions(prefix: int, grid: tuple[int, int, int], seconds: float, after: int) -> torch.Tensor:
    """Positions by transformers 4.57.1's rule, written out token by token: [4, 1, S] (text row and t, h, w)."""
    rows = [(i, i, i) for i in range(prefix)]
    for t in range(grid[0]):
        for h in range(grid[1]):
            for w in range(grid[2]):
                rows.append((prefix + int(t * seconds * TOKENS_PER_SECOND), prefix + h, prefix + w))
    start = max(max(row) for row in rows) + 1
    rows += [(start + i,) * 3 for i in range(after)]
    mrope = torch.tensor(rows).T[:, None]
    return torch.cat([torch.arange(len(rows))[None, None], mrope])


@pytest.mark.parametrize(("height", "width"), [(224, 224), (168, 252)])
def test_training_forward_equals_stock_model(height: int, width: int) -> None:
    plan = BatchPlan(seed=1, clips=2, patches=3, height=height, width=width, shorts=1, longs=1)
    batch = make_batch(plan)
    model = build_model().eval()
    with torch.no_grad():
        patches = to_patches(draw_planes(batch, torch.device("cpu")), torch.float32)
        rows, columns = cells(plan)
        seconds = torch.from_numpy(batch.seconds_per_patch)
        training = TrainingModel(model)
        out = training(patches, torch.from_numpy(batch.ids), seconds, rows, columns, plan.segments)
        ours = training.logits(out.text)
        prompt = prompt_tokens()
        per_clip = patches.view(plan.clips, -1, patches.shape[-1])
        for clip in range(plan.clips):
            start = 0
            for room in plan.segments:
                ids = batch.ids[clip, start : start + room]
                length = int((ids != prompt.padding).sum())
                cell_count = plan.patches * rows * columns
                tokens = [*prompt.before_video, *[prompt.video_pad] * cell_count, *ids[:length].tolist()]
                grid = (plan.patches, rows, columns)
                stock = model(
                    input_ids=torch.tensor([tokens]),
                    pixel_values_videos=per_clip[clip],
                    video_grid_thw=torch.tensor([[plan.patches, rows * MERGE, columns * MERGE]]),
                    position_ids=golden_positions(len(prompt.before_video), grid, float(seconds[clip]), length),
                    mm_token_type_ids=(torch.tensor([tokens]) == prompt.video_pad).long() * 2,
                ).logits[0, -length:]
                error = (stock - ours[clip, start : start + length]).abs().max() / stock.abs().max()
                assert error < 1e-5
                start += room
