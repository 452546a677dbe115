"""Everything that decides the bits of a cache is in its key, and nothing else."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from purekv_cli.method.budget import Budget
from purekv_cli.method.config import Propagation
from purekv_cli.models.registry import resolve
from purekv_cli.pipeline import Plan, make_plan
from purekv_cli.settings import ClipSettings, MethodSettings, Settings
from purekv_cli.store import key as module
from purekv_cli.store.key import Key, make_key
from purekv_cli.video.probe import probe
from tests.clips import Recipe, make

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("clips"), Recipe()).path


@pytest.fixture
def model(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "model"))


@pytest.fixture
def plan(clip: Path, model: Path) -> Plan:
    geometry = resolve(str(model)).geometry
    assert geometry is not None
    settings = Settings(clip=ClipSettings(start=0.5), method=MethodSettings(observe="template"))
    return make_plan(probe(clip), geometry, [], settings)


def name(plan: Plan, model: Path, dtype: torch.dtype = torch.float32, kernels: str = "auto") -> str:
    return make_key(plan, "tiny", model, dtype, CPU, kernels).name


CHANGES: dict[str, Callable[[Plan], Plan]] = {
    "start": lambda plan: replace(plan, sample=replace(plan.sample, start=0.25)),
    "end": lambda plan: replace(plan, sample=replace(plan.sample, end=1.0)),
    "times": lambda plan: replace(plan, sample=replace(plan.sample, times=plan.sample.times[:-1])),
    "rate": lambda plan: replace(plan, sample=replace(plan.sample, seconds_per_frame=0.1)),
    "size": lambda plan: replace(plan, size=(28, 28)),
    "sound": lambda plan: replace(plan, listens=True),
    "policy": lambda plan: replace(plan, method=replace(plan.method, policy="random")),
    "budget": lambda plan: replace(plan, method=replace(plan.method, budget=Budget.parse("0.3"))),
    "observe": lambda plan: replace(plan, method=replace(plan.method, observe="video")),
    "layer weights": lambda plan: replace(plan, method=replace(plan.method, layer_weights=(1.0, 2.0, 3.0))),
    "carry": lambda plan: replace(plan, method=replace(plan.method, carry=0.1)),
    "propagate": lambda plan: replace(plan, method=replace(plan.method, propagate=Propagation(1, 0.5))),
    "sparse": lambda plan: replace(plan, method=replace(plan.method, sparse=replace(plan.method.sparse, content=0.2))),
    "seed": lambda plan: replace(plan, method=replace(plan.method, seed=1)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_every_setting_of_the_prefill_counts(plan: Plan, model: Path, change: Callable[[Plan], Plan]) -> None:
    assert name(change(plan), model) != name(plan, model) == name(plan, model)


def test_the_machine_counts(plan: Plan, model: Path) -> None:
    names = {name(plan, model), name(plan, model, torch.bfloat16), name(plan, model, kernels="reference")}
    assert len(names) == 3


def test_versions_and_the_code_itself_count(plan: Plan, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = name(plan, model)
    monkeypatch.setattr(module, "__version__", "999")
    newer = name(plan, model)
    monkeypatch.setattr(module, "code", lambda: "somebody worked on it")
    assert len({before, newer, name(plan, model)}) == 3


def test_the_clip_counts_by_its_content(plan: Plan, model: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.mp4"
    shutil.copy(plan.info.path, moved)
    there = replace(plan, info=replace(plan.info, path=moved))
    assert name(there, model) == name(plan, model)
    state = moved.stat()
    content = bytearray(moved.read_bytes())
    content[-1] ^= 1
    moved.write_bytes(content)
    os.utime(moved, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert name(there, model) != name(plan, model)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "chat_template.jinja", "tokenizer.json"])
def test_the_model_counts_by_every_file(plan: Plan, model: Path, file: str) -> None:
    before, content = name(plan, model), (model / file).read_bytes()
    (model / file).write_bytes(content[::-1])
    assert name(plan, model) != before


def test_the_model_of_a_hub_is_followed_to_its_content(plan: Plan, model: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in model.iterdir():
        (snapshot / file.name).symlink_to(file)
    assert name(plan, snapshot) == name(plan, model)


def test_people_are_told_where_it_came_from(plan: Plan, model: Path) -> None:
    key: Key = make_key(plan, "tiny", model, torch.float32, CPU, "auto")
    assert key.facts["path"] == str(plan.info.path)
    assert (key.facts["start"], key.facts["model"], key.facts["policy"]) == (0.5, "tiny", plan.method.policy)
