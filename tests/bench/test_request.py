"""What a bench is asked for: lists on the command line, and one line of help where one cannot be read."""

import pytest

from purekv_cli.bench.arms import arms
from purekv_cli.bench.request import Request, read_budgets, read_counts, read_grid, read_names, read_propagations
from purekv_cli.errors import UsageError
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig, Propagation


def test_lengths_in_binary_thousands() -> None:
    assert read_counts("8k, 32K,500") == (8192, 32768, 500)
    assert read_counts("8k,8k") == (8192,)


def test_budgets_and_policies() -> None:
    assert read_budgets("0.1,20%,64t") == (Budget("fraction", 0.1), Budget("fraction", 0.2), Budget("tokens", 64.0))
    assert read_names(" purekv, random ,") == ("purekv", "random")


def test_propagation_is_a_layer_and_a_share_or_off() -> None:
    assert read_propagations("4:0.2,6:0.35") == (Propagation(4, 0.2), Propagation(6, 0.35))
    assert read_propagations("off") == ()


def test_grid() -> None:
    assert read_grid("17x23") == (17, 23)


@pytest.mark.parametrize(
    ("read", "text", "part", "hint"),
    [
        (read_counts, "8k,many", "'many'", "8k"),
        (read_counts, "0", "'0'", "8k"),
        (read_counts, ",", "no length", "8k"),
        (read_budgets, "0.1,2", "'2'", "0.2"),
        (read_propagations, "4", "'4'", "4:0.35"),
        (read_propagations, "4:2", "2", "4:0.35"),
        (read_grid, "17", "'17'", "17x23"),
        (read_grid, "0x4", "'0x4'", "17x23"),
    ],
)
def test_what_cannot_be_read_says_what_can(read: object, text: str, part: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        read(text)  # type: ignore[operator]
    assert part in str(error.value)
    assert hint in error.value.hint


def request(**changes: object) -> Request:
    values: dict[str, object] = {
        "tokens": (8192,),
        "grid": (17, 23),
        "budgets": (Budget("fraction", 0.1), Budget("fraction", 0.2)),
        "policies": ("purekv", "random"),
        "propagations": (Propagation(4, 0.2),),
        "runs": 1,
        "warmup": 0,
        "max_tokens": 2,
    }
    return Request(**{**values, **changes})  # type: ignore[arg-type]


def test_a_length_becomes_whole_frames() -> None:
    assert request().steps(8192) == 21  # 96 + 21 * 391 = 8307 is nearer than 96 + 20 * 391 = 7916
    assert request().steps(10) == 1


def test_rows_are_the_baselines_then_every_budget_of_every_policy_with_and_without_propagation() -> None:
    rows = arms(request(), MethodConfig())
    assert [row.kind for row in rows] == ["stock", "dense", *["whole", "propagated"] * 4]
    assert len({row.name for row in rows}) == len(rows)
    assert [row.config.policy for row in rows[:2]] == ["dense", "dense"]
    assert rows[3].config.propagate == Propagation(4, 0.2)
    assert rows[2].config.propagate is None


def test_propagation_off_and_dense_among_the_policies_add_no_rows() -> None:
    rows = arms(request(propagations=(), policies=("dense", "purekv")), MethodConfig())
    assert [row.kind for row in rows] == ["stock", "dense", "whole", "whole"]
