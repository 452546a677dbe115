"""The rules, on figures made up for them."""

import pytest
import torch

from purekv_cli.calibrate.choose import Choice, best_score_layers, clearly_best, costs, served, work
from purekv_cli.calibrate.choose import choose as choose_all
from purekv_cli.calibrate.measure import Measured, Outcome
from purekv_cli.calibrate.trials import Dialled, Kind, Trial
from purekv_cli.method.config import Propagation

OURS = Trial("budget", "purekv 0.2", Dialled("purekv", "0.2", "known"))
FLAT = torch.eye(8)
RISING = (0.5, 1.5)


def measured(*others: tuple[Trial, list[float], int], videos: int = 4, questions: int = 25) -> Measured:
    """Ours at 0.01 with all answers right; of others the distance on each clip, and how many were wrong."""

    def outcomes(distances: list[float], wrong: int) -> list[Outcome]:
        every = [(video, distance) for video, distance in enumerate(distances) for _ in range(questions)]
        return [
            Outcome(video, number, distance, number >= wrong, 0.2) for number, (video, distance) in enumerate(every)
        ]

    found = {trial: outcomes(distances, wrong) for trial, distances, wrong in others}
    asked = videos * questions
    return Measured(videos, asked, asked, outcomes={OURS: outcomes([0.01] * videos, 0)} | found)


def choose(seen: Measured, tolerance: float = 0.02) -> Choice:
    return choose_all(costs(seen), FLAT, OURS.arm, tolerance)


def flow(name: str) -> Trial:
    return trial("propagation", name)


def trial(kind: Kind, name: str, policy: str = "purekv") -> Trial:
    weights = RISING if kind == "layer budgets" else ()
    return Trial(kind, name, Dialled(policy, "0.2", "known", layer_weights=weights))


def test_the_cheapest_propagation_within_the_tolerance_is_taken() -> None:
    seen = measured(
        (flow("2:0.35"), [0.04] * 4, 0),
        (flow("4:0.35"), [0.02] * 4, 0),
        (flow("4:0.5"), [0.01] * 4, 0),
        (flow("6:0.2"), [0.01] * 4, 0),
    )
    assert choose(seen).propagate == Propagation(4, 0.35)
    assert choose(seen, 0.05).propagate == Propagation(2, 0.35)
    assert work(Propagation(4, 0.35), 8) < work(Propagation(4, 0.5), 8) < work(Propagation(6, 0.2), 8) == 0.8


def test_a_cheap_propagation_is_not_taken_by_luck() -> None:
    """Fewer tokens, or from a lower layer, cannot be better: where more of them harm, that is chance."""
    seen = measured(
        (flow("2:0.2"), [0.01] * 4, 0),
        (flow("2:0.35"), [0.2] * 4, 0),
        (flow("4:0.2"), [0.01] * 4, 0),
        (flow("4:0.35"), [0.01] * 4, 0),
    )
    assert choose(seen).propagate == Propagation(4, 0.2)


@pytest.mark.parametrize(
    ("distances", "wrong"),
    [([0.01] * 4, 2), ([0.01, 0.01, 0.01, 0.08], 0)],
    ids=["two answers of a hundred are lost", "clips differ by more than the mean allows"],
)
def test_propagation_stays_off_where_it_may_harm(distances: list[float], wrong: int) -> None:
    assert choose(measured((flow("4:0.35"), distances, wrong))).propagate is None


@pytest.mark.parametrize(("videos", "questions"), [(1, 25), (4, 4)])
def test_one_clip_or_few_questions_decide_nothing(videos: int, questions: int) -> None:
    seen = measured(
        (flow("4:0.35"), [0.01] * videos, 0),
        (trial("sparse", "dense", "dense"), [0.0] * videos, 0),
        videos=videos,
        questions=questions,
    )
    choice = choose(seen)
    assert (choice.propagate, choice.sparse) == (None, None)
    shaped = measured((trial("layer budgets", "rising"), [0.0] * videos, 0), videos=videos, questions=questions)
    assert clearly_best(costs(shaped)) == OURS.arm


@pytest.mark.parametrize(("dense", "pruned", "on"), [(0.0, 0.01, True), (0.03, 0.01, False), (0.0, 0.04, False)])
def test_sparse_attention_must_cost_nothing_with_and_without_pruning(dense: float, pruned: float, on: bool) -> None:
    seen = measured(
        (trial("sparse", "dense", "dense"), [dense] * 4, 0), (trial("sparse", "purekv 0.2"), [pruned] * 4, 0)
    )
    assert choose(seen).sparse is on


def test_what_could_not_be_tried_stays_as_it_is() -> None:
    assert choose(measured()).sparse is None


@pytest.mark.parametrize(
    ("distances", "wrong", "weights"),
    [
        ([0.005] * 4, 0, RISING),
        ([0.0095] * 4, 0, ()),
        ([0.0, 0.0, 0.0, 0.03], 0, ()),
        ([0.005] * 4, 1, ()),
    ],
    ids=["better", "hardly better", "not for sure", "an answer less"],
)
def test_layers_stay_equal_unless_a_shape_is_clearly_better(
    distances: list[float], wrong: int, weights: tuple[float, ...]
) -> None:
    seen = measured((trial("layer budgets", "rising"), distances, wrong))
    assert clearly_best(costs(seen)).layer_weights == weights


def test_costs_are_held_against_ours_and_plain_sparsity_against_dense() -> None:
    seen = measured(
        (trial("budget", "random 0.2", "random"), [0.5, 0.7, 0.5, 0.7], 40),
        (trial("sparse", "dense", "dense"), [0.03] * 4, 3),
    )
    ours, random, sparse = costs(seen)
    assert (ours.above, ours.lost) == (0.0, 0)
    assert (random.distance, random.above, random.lost) == (pytest.approx(0.6), pytest.approx(0.59), 40)
    assert random.error == pytest.approx(0.1 * (4 / 3) ** 0.5 / 4**0.5)
    assert (sparse.above, sparse.lost) == (pytest.approx(0.03), 3)


def test_the_first_round_is_held_against_dense() -> None:
    seen = measured((trial("starved", "layer 0"), [0.5] * 4, 7))
    assert [cost.above for cost in costs(seen, first_is_base=False)] == [pytest.approx(0.01), pytest.approx(0.5)]
    assert [cost.lost for cost in costs(seen, first_is_base=False)] == [0, 7]


def test_a_trial_is_held_against_the_same_questions() -> None:
    """Half of the questions could not be asked of it."""
    seen = measured((flow("4:0.35"), [0.01] * 4, 10))
    seen.outcomes[flow("4:0.35")] = seen.outcomes[flow("4:0.35")][5:55]
    cost = costs(seen)[1]
    assert (cost.asked, cost.lost, cost.above) == (50, 5, pytest.approx(0.0))


def matrix(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows)


def test_score_layers_are_added_while_they_help() -> None:
    """Layer 1 serves all; layer 0 knows only itself; nothing is gained by adding it."""
    rows = [[1, 0.1, 0.1, 0.1], [0.5, 1, 0.6, 0.6], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert best_score_layers(matrix(rows), low=2) == (1,)


def test_a_second_score_layer_serves_the_layers_above_it() -> None:
    """Layer 0 serves 1, layer 2 serves 3, 4 and 5."""
    good = {(0, 1), (2, 3), (2, 4), (2, 5)}
    rows = [[1.0 if s == t else 0.8 if (s, t) in good else 0.1 for t in range(6)] for s in range(6)]
    assert best_score_layers(matrix(rows), low=3) == (0, 2)
    assert served(matrix(rows), (0, 2)) == pytest.approx(0.8)
    assert served(matrix(rows), (2,)) == pytest.approx((0.1 + 0.1 + 3 * 0.8) / 5)  # those below wait for it
