"""What is tried: names, arms, and shapes of equal bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.calibrate.trials import BANDS, flow_layers, layer_budgets, trials
from purekv_cli.method.config import Propagation


@given(st.integers(2, 90), st.sampled_from([0.05, 0.2, 0.3]))
def test_shapes_of_layer_budgets_cost_what_uniform_ones_cost(layers: int, mean: float) -> None:
    shapes = layer_budgets(layers, mean)
    assert len(shapes) == 2 + 2 * min(BANDS, layers)
    for trial in shapes:
        shares = [float(arm.budget) for arm in trial.arms]
        assert len(shares) == layers
        assert sum(shares) / layers == pytest.approx(mean, rel=1e-4), trial.name


@given(st.integers(2, 90))
def test_propagation_is_tried_from_layers_inside_the_model(layers: int) -> None:
    tried = flow_layers(layers)
    assert tried[0] >= 1
    assert tried[-1] < layers
    assert len(tried) == min(7, layers - 1)


def test_the_first_trial_is_ours_at_the_presets_budget() -> None:
    tried = trials(8, [0.3, 0.1], ["random"], low=4)
    assert (tried[0].arms[0].policy, tried[0].arms[0].budget) == ("purekv", "0.3")
    shares = {Propagation.parse(trial.name).share for trial in tried if trial.kind == "propagation"}  # type: ignore[union-attr]
    assert shares == {0.5, 0.35}  # a share below the budget would be the budget


def test_a_score_layer_reaches_the_policys_dials() -> None:
    scored = [trial.arms[0].config for trial in trials(8, [0.2], [], low=4) if trial.kind == "score layer"]
    assert [config.score_layers for config in scored] == [(0,), (1,), (2,), (3,)]
    assert {config.policy for config in scored} == {"purekv-paper"}
