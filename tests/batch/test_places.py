"""How many workers a machine gets, and what each may use."""

from types import SimpleNamespace
from typing import Any

import pytest

from purekv_cli.batch import places
from purekv_cli.batch.places import decoders_for, environments


def model(kind: str) -> Any:
    return SimpleNamespace(device=SimpleNamespace(type=kind), source=SimpleNamespace(folder=None))


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs and 16 cores."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(places, "cores_here", lambda: 16)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_worker_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environments(model("cuda"), "auto", None, None) == [{"CUDA_VISIBLE_DEVICES": n} for n in "01"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-abc")
    found = environments(model("cuda"), "auto", 3, None)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in found] == ["5", "GPU-abc", "5"]
    assert decoders_for(2) == 7


def test_a_named_gpu_is_taken_at_its_word() -> None:
    assert environments(model("cuda"), "cuda:1", None, None) == [{}]


def test_a_model_too_large_for_one_gpu_has_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_too_large", lambda model: True)
    assert environments(model("cuda"), "auto", None, None) == [{}]


def test_without_a_gpu_there_is_one_worker_and_more_share_the_cores() -> None:
    assert environments(model("cpu"), "auto", None, None) == [{}]
    assert environments(model("cpu"), "auto", 4, None) == [{"OMP_NUM_THREADS": "4"}] * 4
    assert environments(model("cpu"), "auto", 2, 3) == [{"OMP_NUM_THREADS": "3"}] * 2


@pytest.mark.parametrize(("cores", "workers", "ahead"), [(1, 1, 1), (2, 1, 1), (4, 1, 3), (64, 1, 8), (4, 8, 1)])
def test_decoders_leave_a_core_for_answering(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, ahead: int
) -> None:
    monkeypatch.setattr(places, "cores_here", lambda: cores)
    assert decoders_for(workers) == ahead
