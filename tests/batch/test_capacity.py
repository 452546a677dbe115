"""The arithmetic of docs/scaling.md, and that the page shows what the command prints."""

from dataclasses import replace
from pathlib import Path

import pytest

from purekv_cli.batch.capacity import CLIP_BYTES, DECODE, WAYS, Assumptions, need, table

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
SURE = Assumptions(deaths=0.0)
FAST = WAYS[-1]


def test_overlap_costs_the_larger_part_and_one_by_one_the_sum() -> None:
    found = need(FAST, SURE)
    assert found.overlapped == max(found.gpu, found.cpu)
    assert found.one_by_one == found.gpu + found.cpu


def test_with_as_many_cores_as_it_needs_a_gpu_never_waits() -> None:
    exact = need(FAST, SURE).cores
    assert DECODE / exact == pytest.approx(need(FAST, SURE).gpu)
    assert need(FAST, replace(SURE, cores=int(exact))).bottleneck == "decoding"
    assert need(FAST, replace(SURE, cores=int(exact) + 1)).bottleneck == "GPU"


def test_twice_the_gpus_take_half_the_days_at_the_same_cost() -> None:
    one, two = need(FAST, SURE), need(FAST, replace(SURE, gpus=2 * SURE.gpus))
    assert two.days == pytest.approx(one.days / 2)
    assert two.per_hour == one.per_hour
    assert one.read * one.days * 86400 == pytest.approx(SURE.videos * CLIP_BYTES)


def test_a_shared_prefill_is_paid_once() -> None:
    asked = replace(SURE, questions=5)
    saved = need(FAST, asked).gpu - need(FAST, replace(asked, shared=True)).gpu
    assert saved == pytest.approx(4 * FAST.prefill)


@pytest.mark.parametrize("given", [Assumptions(), Assumptions(cores=4)], ids=["16 cores", "4 cores"])
def test_the_page_shows_what_the_command_prints(given: Assumptions) -> None:
    assert table(given) in PAGE.read_text(encoding="utf-8")
