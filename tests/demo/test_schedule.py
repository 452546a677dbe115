"""The schedule: every step costs the same, and clips grow from short and easy to long and hard."""

import pytest

from purekv_cli.demo.batches import BatchPlan, cells
from purekv_cli.demo.schedule import FROM_SCRATCH, REFINE, Stage, draw_plan, validation_plans


@pytest.mark.parametrize("stages", [FROM_SCRATCH, REFINE], ids=["from scratch", "refine"])
def test_every_step_sees_about_as_many_visual_tokens(stages: tuple[Stage, ...]) -> None:
    for seed in range(300):
        plan = draw_plan(seed, seed / 300, 131072, stages)
        rows, columns = cells(plan)
        assert 0.9 * 131072 < plan.clips * plan.patches * rows * columns <= 131072
        assert plan == draw_plan(seed, seed / 300, 131072, stages)


@pytest.mark.parametrize("stages", [FROM_SCRATCH, REFINE], ids=["from scratch", "refine"])
def test_the_schedule_grows_from_short_and_easy_to_long_and_hard(stages: tuple[Stage, ...]) -> None:
    def plans(progress: float) -> list[BatchPlan]:
        return [draw_plan(seed, progress, 131072, stages) for seed in range(200)]

    early, late = plans(0.0), plans(0.99)
    assert max(plan.patches for plan in early) <= 10 < 64 <= max(plan.patches for plan in late)
    assert max(plan.hardness for plan in early) <= 0.5
    assert {plan.hardness for plan in late} == {1.0}
    assert {(plan.height, plan.width) for plan in early} == {(224, 224)}
    assert len({(plan.height, plan.width) for plan in late}) > 5


def test_validation_has_seeds_of_its_own() -> None:
    plans = [plan for patches in (16, 32, 64) for plan in validation_plans(patches, 131072)]
    assert all(plan.seed < 0 for plan in plans)
    assert len({plan.seed for plan in plans}) == len(plans)
