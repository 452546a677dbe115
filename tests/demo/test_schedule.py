"""The schedule: every step costs the same, and clips grow from short and easy to long and hard."""

from purekv_cli.demo.batches import BatchPlan, cells
from purekv_cli.demo.schedule import FROM_SCRATCH, draw_plan, stage_at, validation_plans


def test_every_step_sees_about_as_many_visual_tokens() -> None:
    for seed in range(300):
        plan = draw_plan(seed, seed / 300, 131072, FROM_SCRATCH)
        rows, columns = cells(plan)
        tokens = 131072 * FROM_SCRATCH[stage_at(seed / 300, FROM_SCRATCH)].batch
        assert 0.9 * tokens < plan.clips * plan.patches * rows * columns <= tokens
        assert plan == draw_plan(seed, seed / 300, 131072, FROM_SCRATCH)


def test_the_schedule_grows_from_short_and_easy_to_long_and_hard() -> None:
    def plans(progress: float) -> list[BatchPlan]:
        return [draw_plan(seed, progress, 131072, FROM_SCRATCH) for seed in range(200)]

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
