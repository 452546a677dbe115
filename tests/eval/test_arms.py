"""Which arms a comparison has."""

import pytest

from purekv_cli.errors import UsageError
from purekv_cli.eval.arms import WHENS, Arm, arms
from purekv_cli.method.config import Propagation


def test_every_policy_stands_at_every_moment_and_dense_once() -> None:
    compared = list(arms(["dense", "purekv", "random"], ["0.2", "0.1"]))
    assert compared[0] == Arm("dense", "1", "unknown")
    assert len(compared) == 1 + 2 * 2 * len(WHENS)
    assert len(set(compared)) == len(compared)


def test_a_probe_stands_in_for_the_question_where_that_is_unknown() -> None:
    assert {(arm.when, arm.probe) for arm in arms(["purekv"], ["0.2"], probe="") if arm.policy == "purekv"} == {
        ("unknown", ""),
        ("known", None),
        ("prompt", None),
    }


@pytest.mark.parametrize(
    ("arm", "observe"),
    [
        (Arm("purekv", "0.2", "unknown"), "video"),
        (Arm("purekv", "0.2", "unknown", probe=""), "template"),
        (Arm("purekv", "0.2", "unknown", probe="What happens?"), "question"),
        (Arm("purekv", "0.2", "known"), "question"),
        (Arm("purekv", "0.2", "prompt"), "question"),
    ],
)
def test_rows_after_the_video_speak_where_there_are_any(arm: Arm, observe: str) -> None:
    assert arm.config.observe == observe


def test_an_arm_reads_densely_with_all_tokens_unless_it_says_otherwise() -> None:
    plain, fast = (Arm("purekv", "0.2", "known", *more).config for more in ((), ("4:0.35", True)))
    assert (plain.sparse.enabled, plain.propagate) == (False, None)
    assert (fast.sparse.enabled, fast.propagate) == (True, Propagation(4, 0.35))


@pytest.mark.parametrize(
    ("policy", "budget", "propagate"), [("purekvv", "0.2", None), ("purekv", "2", None), ("purekv", "0.2", "0:1")]
)
def test_what_cannot_be_compared_is_refused_at_once(policy: str, budget: str, propagate: str | None) -> None:
    with pytest.raises(UsageError) as refused:
        list(arms([policy], [budget], propagate=propagate))
    assert refused.value.hint
