"""Presets: shipped ones are sound, the model chooses its own, and what is given goes over it."""

from pathlib import Path

import pytest

from purekv_cli.errors import UsageError
from purekv_cli.method.budget import Budget
from purekv_cli.method.config import MethodConfig, Propagation
from purekv_cli.presets import choose, clip_settings, find, method_config, read_preset, shipped
from purekv_cli.settings import ClipSettings, MethodSettings


def test_a_preset_ships_for_every_model_size() -> None:
    assert {"demo", "qwen2.5-vl-3b", "qwen2.5-vl-7b", "qwen2.5-vl-32b", "qwen2.5-vl-72b"} <= set(shipped())


def test_shipped_presets_are_valid_for_their_policy() -> None:
    from purekv_cli.method.policies import make

    for preset in shipped().values():
        assert make(preset.method.policy, preset.method).name == preset.method.policy


@pytest.mark.parametrize(
    ("names", "preset"),
    [
        (["demo"], "demo"),
        (["Qwen/Qwen2.5-VL-7B-Instruct"], "qwen2.5-vl-7b"),
        (["/models/Qwen2.5-VL-72B-Instruct"], "qwen2.5-vl-72b"),
        (["someone/else"], "default"),
    ],
)
def test_the_model_chooses_its_preset(names: list[str], preset: str) -> None:
    assert choose(None, names).name == preset


def test_an_unknown_preset_is_met_with_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        find("qwen2.5-vl-7")
    assert "'qwen2.5-vl-7b'" in caught.value.hint


def test_a_preset_can_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('title = "mine"\n[method]\nbudget = "512MiB"\nscore_layers = [1, 3]\nsparse = { tile = [8, 16] }\n')
    preset = find(str(path))
    assert preset.name == "mine"
    assert preset.method.budget == Budget("bytes", 512 * 2**20)
    assert (preset.method.score_layers, preset.method.sparse.tile) == ((1, 3), (8, 16))
    assert preset.method.sparse.content == MethodConfig().sparse.content


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("models = []", "title"),
        ('title = "x"\n[method]\npolcy = "purekv"', "'policy'"),
        ('title = "x"\n[method.sparse]\ntile = [8]', "tuple"),
        ('title = "x"\n[method]\nobserve = "answers"', "question"),
        ('title = "x"\n[method]\nbudget = 2', "fraction"),
        ('title = "x"\ncalibrated = "yes"', "bool"),
    ],
)
def test_a_wrong_preset_file_is_refused_with_a_hint(tmp_path: Path, text: str, hint: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_preset(path)
    assert hint in caught.value.hint


def test_what_is_given_goes_over_the_preset() -> None:
    preset = shipped()["qwen2.5-vl-7b"]
    config = method_config(preset, MethodSettings(budget="0.05", observe="video"), seed=7)
    assert (str(config.budget), config.observe, config.seed) == ("0.05", "video", 7)
    assert config.policy == preset.method.policy


def test_dense_means_no_pruning_and_no_sparse_attention() -> None:
    config = method_config(shipped()["demo"], MethodSettings(dense=True, budget="0.1"), seed=0)
    assert (config.policy, config.budget.value, config.sparse.enabled) == ("dense", 1.0, False)


def test_a_given_frame_count_replaces_the_presets_rate_but_keeps_its_cap() -> None:
    clip = clip_settings(shipped()["demo"], ClipSettings(frames=12))
    assert (clip.frames, clip.fps, clip.max_frames) == (12, None, 128)


def test_propagation_is_read_from_a_file_and_turned_off_by_a_flag(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('title = "mine"\n[method]\npropagate = "4:0.35"\n')
    preset = read_preset(file)
    assert preset.method.propagate == Propagation(4, 0.35)
    assert method_config(preset, MethodSettings(propagate="off"), 0).propagate is None
    assert method_config(preset, MethodSettings(dense=True), 0).propagate is None
    assert method_config(preset, MethodSettings(propagate="2:1"), 0).propagate == Propagation(2, 1.0)


@pytest.mark.parametrize("text", ["4", "0:0.5", "4:0", "4:1.5", "four:0.2", "4:nan", ""])
def test_an_impossible_propagation_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Propagation.parse(text)
    assert "4:0.35" in caught.value.hint
