"""Checkpoints in the released layout: from a folder, with the vision tower inside or in its own repository."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from purekv_cli.errors import ModelUnavailable
from purekv_cli.models import registry
from purekv_cli.models.videollama2 import tower
from purekv_cli.models.videollama2.geometry import connector_geometry
from purekv_cli.models.videollama2.tower import CLIP, SIGLIP
from purekv_cli.runtime.engine import Engine
from tests.models.videollama2.conftest import clip_of
from tests.models.videollama2.released import CASES, write_mixtral, write_released
from tests.models.videollama2.test_method import STEPS, check, finish, method


def load(folder: Path) -> Any:
    return registry.load(registry.resolve(str(folder)), "float32", "cpu")


def test_every_weight_is_the_files_own(released: Path, adapter: Any) -> None:
    weights = load_file(released / "model.safetensors")
    ours = adapter.model.state_dict()
    assert len(weights) == len(ours)
    sums = sorted(float(tensor.double().sum()) for tensor in weights.values())
    assert sums == pytest.approx(sorted(float(tensor.double().sum()) for tensor in ours.values()), abs=1e-12)


@pytest.mark.parametrize("case", sorted(CASES))
def test_the_tower_may_come_from_its_own_repository(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    apart = load(write_released(tmp_path / "apart", case, cache))
    whole = load(write_released(tmp_path / "whole", case))
    frames = clip_of(3)
    features = [one.model.get_video_features(**one.prepare(frames, "?").features) for one in (apart, whole)]
    assert torch.equal(*features)


def test_a_known_tower_is_not_fetched_by_stealth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers are known, its weights are neither in the checkpoint nor here, and the run is offline."""
    facts = CASES["mistral_clip"]
    name = facts["config"]["mm_vision_tower"]
    monkeypatch.setitem(tower._KNOWN, name, (facts["vision_config"], facts["preprocessor_config"]))
    folder = write_released(tmp_path / "model", "mistral_clip", tmp_path / "elsewhere")
    with pytest.raises(ModelUnavailable, match="lacks its vision tower") as caught:
        load(folder)
    assert f"hf download {name}" in caught.value.hint


def test_a_tower_that_is_nowhere(tmp_path: Path) -> None:
    folder = write_released(tmp_path / "model", "mistral_clip", mm_vision_tower="nobody/clip-of-none")
    with pytest.raises(ModelUnavailable, match="nobody/clip-of-none") as caught:
        registry.resolve(str(folder))
    assert "hf download nobody/clip-of-none" in caught.value.hint


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    folder = write_released(tmp_path / "model", "mistral_clip")
    weights = load_file(folder / "model.safetensors")
    for name in (
        "model.mm_projector.sampler.0.weight",
        "model.vision_tower.vision_tower.vision_model.pre_layrnorm.bias",
    ):
        save_file({key: tensor for key, tensor in weights.items() if key != name}, folder / "model.safetensors")
        with pytest.raises(ModelUnavailable, match=r"lacks 1 weights, such as (connector\.sampler|vision_tower)"):
            load(folder)


def test_another_connector_is_refused(tmp_path: Path) -> None:
    folder = write_released(tmp_path / "model", "mistral_clip", mm_projector_type="spatial_pool")
    with pytest.raises(ModelUnavailable, match="spatial_pool") as caught:
        registry.resolve(str(folder))
    assert "stc_connector" in caught.value.hint


@torch.no_grad()
def test_experts_of_mixtral_find_their_places(tmp_path: Path) -> None:
    """Released weights name every expert; transformers keeps them in one tensor. The fast path does not know them."""
    folder, stock = write_mixtral(tmp_path)
    assert "model.layers.0.block_sparse_moe.experts.2.w1.weight" in load_file(folder / "model.safetensors")
    mixtral, ids = load(folder), torch.arange(20)[None]
    torch.testing.assert_close(mixtral.model(input_ids=ids).logits, stock(input_ids=ids).logits)
    inputs = mixtral.prepare(clip_of(8), "what happens?")
    session = Engine(mixtral, method(inputs)).open(inputs)
    answer = finish(session.first("what happens?", STEPS))
    assert answer.stats.prefill_path.startswith("transformers: its layers are built differently")
    check(mixtral, session, answer)


@pytest.mark.parametrize(
    ("eye", "connector", "frames", "grid"),
    [
        (CLIP, "stc_connector", 8, (5, 13, 13)),
        (CLIP, "stc_connector", 16, (9, 13, 13)),
        (SIGLIP, "stc_connector_v35", 16, (8, 13, 13)),
    ],
    ids=["7B, 8x7B and 72B", "7B-16F", "2.1-7B-16F"],
)
def test_released_grids(eye: str, connector: str, frames: int, grid: tuple[int, int, int]) -> None:
    config = {"mm_vision_tower": eye, "mm_projector_type": connector, "num_frames": frames, "hidden_size": 4096}
    shape = connector_geometry(config | {"num_hidden_layers": 32, "num_attention_heads": 32})
    assert shape.grid(frames, 720, 1280) == grid
    assert shape.tokens_per_frame(720, 1280) * frames == grid[0] * 169


@pytest.mark.parametrize(
    ("alias", "repo", "eye", "sizes"),
    [
        ("videollama2", "DAMO-NLP-SG/VideoLLaMA2-7B-16F", CLIP, (32, 32, 8)),
        ("videollama2.1", "DAMO-NLP-SG/VideoLLaMA2.1-7B-16F", SIGLIP, (28, 28, 4)),
    ],
)
def test_aliases(alias: str, repo: str, eye: str, sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purekv_cli.models.hub.offline_by_environment", lambda: False)
    source = registry.resolve(alias)
    assert source.name == repo
    layers, heads, kv_heads = sizes
    config = {"mm_vision_tower": eye, "num_frames": 16, "num_hidden_layers": layers, "num_attention_heads": heads}
    config |= {"mm_projector_type": "stc_connector" if eye == CLIP else "stc_connector_v35"}
    assert source.geometry == connector_geometry(config | {"num_key_value_heads": kv_heads, "hidden_size": heads * 128})
