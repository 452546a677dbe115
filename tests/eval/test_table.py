"""From graded answers to the lines and tables that people read."""

import json
from pathlib import Path

import pytest

from purekv_cli.eval.arms import Arm
from purekv_cli.eval.records import Graded
from purekv_cli.eval.summary import Line, summarise
from purekv_cli.eval.table import by_suite, markdown
from tests.eval.graded import FULL, answers, graded, items

DENSE = Arm("dense", "1", "unknown")


def compared(wrong: dict[Arm, int], suite: str = "medium", videos: int = 20) -> list[Graded]:
    """Every arm's answers to the same questions; every n-th is wrong."""
    asked = items(videos, 4, suite)
    return [row for arm, n in wrong.items() for row in answers(asked, arm, n)]


def line_of(lines: list[Line], policy: str, budget: str = "0.2") -> Line:
    [found] = [line for line in lines if (line.arm.policy, line.arm.budget) == (policy, budget)]
    return found


def cells(text: str, title: str) -> dict[str, list[str]]:
    """The rows of the first table with this title."""
    rows = text[text.index(f"| {title}") :].split("\n\n")[0].splitlines()
    split = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {row[0]: row[1:] for row in split if row[0] != "---"}


def test_a_line_counts_what_was_asked() -> None:
    dense = summarise(compared({DENSE: 0}))[0]
    assert (dense.videos, dense.asked, dense.right, dense.failed) == (20, 80, 80, 0)
    assert dense.types == {"narration": (20, 20), "count": (40, 40), "colour": (20, 20)}
    assert (dense.share, dense.mean_of_types, dense.kept) == (1, 1, 1)
    assert dense.against_dense is None


def test_a_suite_says_how_ours_compares() -> None:
    ours, weak, same = (Arm(name, "0.2", "unknown") for name in ("purekv", "random", "snapkv"))
    text = markdown(summarise(compared({DENSE: 0, ours: 10, weak: 2, same: 10})))
    assert "2 comparisons: clearly better in 1, clearly worse in 0; an interval begins under -0.5 points in 0." in text
    text = markdown(summarise(compared({DENSE: 0, ours: 2, same: 10})))
    assert "1 comparison: clearly better in 0, clearly worse in 1; an interval begins under -0.5 points in 1." in text
    assert "against others" not in markdown(summarise(compared({DENSE: 0, ours: 10})))


def test_types_weigh_alike_however_often_they_are_asked() -> None:
    asked = items(1, 4)  # a narration, two counts, a colour
    rows = [graded(item, DENSE, right=item.type == "count") for item in asked]
    [line] = summarise(rows)
    assert line.share == 0.5
    assert line.mean_of_types == pytest.approx(1 / 3)


def test_against_dense_and_against_ours_on_the_same_questions() -> None:
    ours, other = Arm("purekv", "0.2", "unknown"), Arm("random", "0.2", "unknown")
    lines = summarise(compared({DENSE: 0, ours: 10, other: 2}))
    found, weak = line_of(lines, "purekv"), line_of(lines, "random")
    assert found.against_dense
    assert found.against_dense.points == pytest.approx(-0.1)
    assert found.against_dense.ratio == pytest.approx(0.9)
    assert (found.against_dense.only_a, found.against_dense.only_b) == (0, 8)
    assert found.narration
    assert found.narration.n == 20
    assert found.behind_ours is None
    assert weak.behind_ours
    assert weak.behind_ours.points == pytest.approx(0.4)
    assert weak.kept == pytest.approx(0.2)
    assert weak.kv_bytes_full == 80 * FULL


def test_moments_budgets_and_ways_of_reading_are_not_mixed() -> None:
    arms = [
        Arm("purekv", "0.2", "known"),
        Arm("random", "0.2", "unknown"),
        Arm("random", "0.1", "known"),
        Arm("random", "0.2", "known", "4:0.35"),
        Arm("random", "0.2", "known", None, True),
        Arm("random", "0.2", "known"),
    ]
    lines = summarise(compared({DENSE: 0, **dict.fromkeys(arms, 5)}))
    assert len(lines) == 7
    has_match = [line.arm for line in lines if line.behind_ours]
    assert [(arm.policy, arm.budget, arm.when, arm.propagate, arm.sparse) for arm in has_match] == [
        ("random", "0.2", "known", None, False)
    ]
    assert [line.arm.when for line in lines] == ["unknown"] * 2 + ["known"] * 5


def test_an_answer_with_an_error_counts_for_nothing_but_is_counted() -> None:
    arm = Arm("random", "0.05", "unknown")
    asked = items(3, 2)
    rows = [graded(item, DENSE, True) for item in asked]
    rows += [graded(item, arm, False, error="the budget is too small" if n else None) for n, item in enumerate(asked)]
    line = line_of(summarise(rows), "random", "0.05")
    assert (line.asked, line.failed, line.right) == (1, 5, 0)
    assert line.errors == {"the budget is too small": 5}
    assert line.against_dense
    assert line.against_dense.n == 1
    assert "5 not answered: the budget is too small" in markdown(summarise(rows))


def test_an_arm_that_never_answered_is_shown_as_that() -> None:
    arm = Arm("random", "0.05", "unknown")
    rows = [graded(item, DENSE, True) for item in items(2, 2)]
    rows += [graded(item, arm, False, error="no") for item in items(2, 2)]
    text = markdown(summarise(rows))
    assert cells(text, "right, %")["random"] == ["none answered"]
    assert cells(text, "minus dense")["random"] == ["-"]


def test_policies_by_budgets() -> None:
    arms = [Arm(policy, budget, "unknown") for budget in ("0.2", "0.1") for policy in ("purekv", "random")]
    text = markdown(summarise(compared({DENSE: 0, **dict(zip(arms, (0, 8, 4, 2), strict=True))})))
    table = cells(text, "right, %")
    assert table["right, % (95 % interval)"] == ["0.2", "0.1"]
    assert table["purekv"] == ["100.0 (95.4 to 100.0)", "75.0 (64.5 to 83.2)"]
    assert table["random"] == ["87.5 (78.5 to 93.1)", "50.0 (39.3 to 60.7)"]
    # A video's four questions have one wrong answer each at every 4th: its narration.
    assert cells(text, "share of dense")["purekv"] == ["1.000 / 1.000", "0.750 / 0.000"]
    assert cells(text, "minus dense")["purekv"][1].startswith("-25.0 (-25.0 to -25.0; p < 0.001)")
    assert list(cells(text, "purekv minus the policy"))[1:] == ["random"]
    assert cells(text, "bytes kept")["random"][0] == "20.0 %; 0.188, 87.5 %"


def test_the_strict_moments_lead_and_suites_stand_apart() -> None:
    rows = []
    for suite in ("short", "long"):
        rows += compared({DENSE: 0, Arm("random", "0.2", "prompt"): 3, Arm("random", "0.2", "unknown"): 2}, suite)
    heads = [line for line in markdown(summarise(rows)).splitlines() if line.startswith("#")]
    assert [head.split(":")[0] for head in heads] == [
        "## short",
        "### short",
        "### short",
        "## long",
        "### long",
        "### long",
    ]
    assert "not known" in heads[1]
    assert "first token" in heads[2]


def test_without_narrations_the_share_of_dense_has_its_interval() -> None:
    asked = [item for item in items(10, 4) if item.type != "narration"]
    arm = Arm("random", "0.2", "unknown")
    text = markdown(summarise([*answers(asked, DENSE), *answers(asked, arm, 5)]))
    assert cells(text, "share of dense (95 % interval)")["random"][0].startswith("0.800 (0.7")
    assert "narration" not in text


def test_nothing_gives_no_table() -> None:
    assert summarise([]) == []
    assert markdown([]).strip() == ""


def test_lines_of_a_results_file_give_the_same_tables(tmp_path: Path) -> None:
    from dataclasses import asdict

    rows = compared({DENSE: 0, Arm("random", "0.2", "unknown"): 3})
    lines = [json.loads(json.dumps(asdict(row) | {"item": "x"})) for row in rows]
    assert by_suite(lines) == markdown(summarise(rows))
