"""What is tried in three rounds: names, arms, dials."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purekv_cli.calibrate.trials import (
    BANDS,
    LEAST,
    STARVED,
    Dialled,
    bands,
    dials,
    flow_layers,
    preambles,
    shapes,
    survey,
)
from purekv_cli.method.budget import layer_entries
from purekv_cli.method.config import Propagation
from purekv_cli.method.policies import drops_preamble

LAYERS = st.integers(2, 90)


@given(LAYERS)
def test_bands_are_neighbours_and_hold_every_layer_once(layers: int) -> None:
    assert [layer for band in bands(layers) for layer in band] == list(range(layers))
    assert len(bands(layers)) == min(BANDS, layers)


@given(LAYERS, st.integers(1000, 20000))
def test_a_starved_band_keeps_a_tenth_and_all_others_everything(layers: int, video: int) -> None:
    starved = [trial for trial in survey(layers, 0.2, low=0) if trial.kind == "starved"]
    for trial, band in zip(starved, bands(layers), strict=True):
        mean = trial.arm.config.budget.entries(video, 0, 1)  # a prompt of nothing but its video
        weights = trial.arm.config.layer_weights
        kept = layer_entries(mean, [0] * layers, video, weights)
        for layer in range(layers):
            wanted = STARVED * video if layer in band else video
            assert kept[layer] == pytest.approx(wanted, abs=layers + 2)


def test_layers_weigh_what_starving_them_costs() -> None:
    tried = {trial.name: trial.arm.config.layer_weights for trial in shapes(4, [0.09, 0.0, 0.01, 1.0], 0.05)}
    assert next(iter(tried)) == "equal"
    assert tried["equal"] == ()
    assert tried["harm"] == (0.09, LEAST, LEAST, 1.0)
    assert tried["square root of harm"] == (0.3, LEAST, 0.1, 1.0)
    assert tried["third root of harm"] == (0.45, LEAST, 0.22, 1.0)
    assert tried["rising"] == tried["falling"][::-1]
    assert sum(tried["rising"]) == pytest.approx(4, abs=0.02)


def test_a_preset_that_is_there_is_tried_beside_them() -> None:
    present = (0.3, 0.05, 0.05, 1.0)
    tried = {trial.name: trial.arm.config.layer_weights for trial in shapes(4, [0.1, 0.0, 0.0, 1.0], 0.05, present)}
    assert tried["as in its preset"] == present
    assert "as in its preset" not in {trial.name for trial in shapes(3, [0.1, 0.0, 1.0], 0.05, present)}


@given(st.lists(st.floats(0, 20), min_size=1, max_size=BANDS))
def test_any_harm_makes_weights_that_a_preset_may_hold(harm: list[float]) -> None:
    for trial in shapes(len(harm), harm, 0.1):
        assert len(trial.arm.config.layer_weights) in (0, len(harm))  # and none is refused by the dials


@given(LAYERS)
def test_propagation_is_tried_from_layers_inside_the_model(layers: int) -> None:
    tried = flow_layers(layers)
    assert tried[0] == 1
    assert tried[-1] == max(1, layers - 2)
    assert tried == sorted(set(tried))
    assert len(tried) == min(7, max(1, layers - 2))


def test_a_small_model_is_tried_from_every_layer_but_the_last() -> None:
    assert flow_layers(8) == [1, 2, 3, 4, 5, 6]


def test_the_third_round_has_the_weights_and_begins_with_ours_at_the_presets_budget() -> None:
    ours = Dialled("purekv", "0.1", "known", layer_weights=(1.0, 2.0), preamble_layers=(0,), carry=0.1)
    tried = dials(8, [0.3, 0.1], ["random"], ours)
    assert (tried[0].arm.policy, tried[0].arm.budget) == ("purekv", "0.3")
    shares = {Propagation.parse(trial.name).share for trial in tried if trial.kind == "propagation"}  # type: ignore[union-attr]
    assert shares == {0.5, 0.35}  # a share below the budget would be the budget
    found = {trial.arm.of_model("demo") for trial in tried if trial.arm.policy == "purekv"}
    assert {(each.layer_weights, each.preamble_layers, each.carry) for each in found} == {((1.0, 2.0), (0,), 0.1)}


def test_layers_lose_the_text_before_the_video_in_the_order_of_what_that_costs() -> None:
    tried = preambles(4, [0.3, 0.0, 0.2, 0.1], Dialled("purekv", "0.05", "known", layer_weights=(1.0,) * 4))
    assert [trial.arm.config.preamble_layers for trial in tried] == [None, (0, 2, 3), (0, 2), (0,), ()]
    assert {trial.arm.config.layer_weights for trial in tried} == {(1.0,) * 4}


@given(LAYERS, st.integers(100, 20000), st.integers(2, 40))
def test_a_bare_band_loses_its_text_and_hardly_anything_else(layers: int, video: int, preamble: int) -> None:
    bare = [trial for trial in survey(layers, 0.2, low=0) if trial.kind == "bare"]
    for trial, band in zip(bare, bands(layers), strict=True):
        config, text = trial.arm.config, preamble + 9
        mean = config.budget.entries(video + text, text, 1)
        dropping = drops_preamble(config, layers, preamble, mean, video + text)
        texts = [text - preamble if drops else text for drops in dropping]
        assert [layer for layer in range(layers) if texts[layer] < text] == list(band)
        kept = layer_entries(mean, texts, video, config.layer_weights)
        assert all(0 <= own + video - entries <= 1 for own, entries in zip(texts, kept, strict=True))


def test_dials_are_the_trials_own_and_not_the_presets() -> None:
    scored = [trial.arm.of_model("demo") for trial in survey(8, 0.2, low=4) if trial.kind == "score layer"]
    assert [config.score_layers for config in scored] == [(0,), (1,), (2,), (3,)]
    assert {(config.policy, config.layer_weights) for config in scored} == {("purekv-paper", ())}
