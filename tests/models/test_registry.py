"""What a name means, without network: aliases, folders, the cache, auto; and what is said when it means nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from purekv_cli.errors import ModelUnavailable, UsageError
from purekv_cli.models import registry
from purekv_cli.models.geometry import ModelGeometry
from purekv_cli.models.registry import Source
from tests.models.conftest import put_in_cache

QWEN3B = "Qwen/Qwen2.5-VL-3B-Instruct"


@pytest.fixture(autouse=True)
def no_surprises(hub_cache: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and a stand-in for the embedded model."""
    monkeypatch.setattr("purekv_cli.demo.MODEL_DIR", checkpoint)


@pytest.mark.parametrize("size", ["3b", "7b", "32b", "72b", "7B"])
def test_aliases_are_the_released_models(size: str) -> None:
    source = registry.resolve(size)
    assert source == Source(
        name := f"Qwen/Qwen2.5-VL-{size.upper()}-Instruct", None, name, None, registry.KNOWN[size.lower()]
    )


def test_known_sizes_give_the_known_bytes() -> None:
    """28 layers x 4 heads x 128 x 2 (K, V) x 2 bytes: 56 KiB a token for 7B, 36 KiB for 3B."""
    assert {size: geometry.kv_bytes(1) // 1024 for size, geometry in registry.KNOWN.items()} == {
        "3b": 36,
        "7b": 56,
        "32b": 256,
        "72b": 320,
        "videollama2": 128,
        "videollama2.1": 56,
    }


def test_a_hub_id_is_known_but_not_here() -> None:
    assert registry.resolve("someone/some-model", "v2") == Source(
        "someone/some-model", None, "someone/some-model", "v2", None
    )


@pytest.mark.parametrize(("typo", "meant"), [("7bb", "7b"), ("dmo", "demo"), ("atuo", "auto"), ("33b", "3b")])
def test_a_typo_gets_a_suggestion(typo: str, meant: str) -> None:
    with pytest.raises(UsageError, match="no model named") as caught:
        registry.resolve(typo)
    assert meant in caught.value.hint


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere"])
def test_a_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(ModelUnavailable, match="no folder"):
        registry.resolve(name)


def test_a_folder_is_read(checkpoint: Path) -> None:
    source = registry.resolve(str(checkpoint))
    assert source.folder == checkpoint
    assert source.geometry == ModelGeometry(layers=3, heads=4, kv_heads=2, head_dim=16, several=True)


def test_the_embedded_model(checkpoint: Path) -> None:
    source = registry.resolve("demo", offline=True)
    assert source.is_demo
    assert source.folder == checkpoint


def test_offline_names_the_command_that_would_fetch_it() -> None:
    with pytest.raises(ModelUnavailable, match="offline") as caught:
        registry.resolve("7b", "main", offline=True)
    assert "hf download Qwen/Qwen2.5-VL-7B-Instruct --revision main" in caught.value.hint


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_by_environment(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ModelUnavailable, match="offline"):
        registry.resolve("7b")


def test_the_cache_is_found_by_name_and_revision(hub_cache: Path) -> None:
    folder = put_in_cache(hub_cache, QWEN3B, commit="c0ffee")
    for revision in (None, "main", "c0ffee"):
        source = registry.resolve("3b", revision, offline=True)
        assert (source.name, source.folder, source.revision) == (QWEN3B, folder, revision)
        assert source.geometry == ModelGeometry(layers=3, heads=4, kv_heads=2, head_dim=16, several=True)
    with pytest.raises(ModelUnavailable):
        registry.resolve("3b", "another", offline=True)


def test_half_a_download_is_not_a_model(hub_cache: Path) -> None:
    folder = put_in_cache(hub_cache, QWEN3B)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert registry.resolve("3b").folder is None
    assert registry.cached_models() == []


def test_cached_models_are_listed(hub_cache: Path) -> None:
    put_in_cache(hub_cache, "b/two")
    put_in_cache(hub_cache, "a/one-more")
    listed = registry.cached_models()
    assert [model.name for model in listed] == ["a/one-more", "b/two"]
    assert all(model.bytes > 100_000 and model.architecture in registry.SUPPORTED for model in listed)


def test_auto_takes_the_configured_model(hub_cache: Path, checkpoint: Path) -> None:
    put_in_cache(hub_cache, QWEN3B)
    assert registry.choose(str(checkpoint)).folder == checkpoint


def test_auto_takes_a_cached_model_before_asking(hub_cache: Path) -> None:
    put_in_cache(hub_cache, "someone/finetune")
    assert registry.choose(confirm=pytest.fail).name == "someone/finetune"
    put_in_cache(hub_cache, "Qwen/Qwen2.5-VL-7B-Instruct")
    assert registry.choose(confirm=pytest.fail).name == "Qwen/Qwen2.5-VL-7B-Instruct"
    put_in_cache(hub_cache, QWEN3B)
    assert registry.resolve("auto").name == QWEN3B


@pytest.mark.parametrize("change", [{"architectures": ["LlamaForCausalLM"]}, {"quantization_config": {}}])
def test_auto_passes_over_what_it_cannot_run(hub_cache: Path, change: dict[str, object]) -> None:
    config = put_in_cache(hub_cache, "someone/other") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    assert registry.find_cached() is None
    assert registry.choose().is_demo


def test_auto_downloads_3b_only_if_the_user_says_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purekv_cli.models.hub.reachable", lambda: True)
    asked: list[str] = []
    assert registry.choose(confirm=lambda text: not asked.append(text)).name == QWEN3B
    assert "7.5 GB" in asked[0]
    assert registry.choose(confirm=lambda text: False).is_demo
    assert registry.choose(confirm=None).is_demo
    assert registry.choose(offline=True, confirm=pytest.fail).is_demo


def test_another_architecture_is_named(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["MysteryForConditionalGeneration"]}))
    with pytest.raises(ModelUnavailable, match="of the kind MysteryForConditionalGeneration") as caught:
        registry.resolve(str(tmp_path))
    assert all(family.title in caught.value.hint for family in registry.FAMILIES.values())
    assert "docs/adding-a-family.md" in caught.value.hint


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_a_text_only_model_is_called_so(tmp_path: Path, architecture: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture], "num_hidden_layers": 2}))
    with pytest.raises(ModelUnavailable, match="text-only"):
        registry.resolve(str(tmp_path))


def test_a_custom_model_with_eyes_is_not_called_text_only(tmp_path: Path) -> None:
    config = {"architectures": ["SeerForCausalLM"], "vision_encoder": "siglip"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnavailable, match="of the kind SeerForCausalLM"):
        registry.resolve(str(tmp_path))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"architectures": null}'])
def test_a_damaged_config_is_no_traceback(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelUnavailable):
        registry.resolve(str(tmp_path))


def test_a_folder_without_config_or_weights(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"config\.json"):
        registry.resolve(str(tmp_path))
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelUnavailable, match="safetensors"):
        registry.resolve(str(tmp_path))
    del_config = json.loads((checkpoint / "config.json").read_text())
    del del_config["num_hidden_layers"]
    (tmp_path / "config.json").write_text(json.dumps(del_config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelUnavailable, match="num_hidden_layers"):
        registry.resolve(str(tmp_path))


def test_planning_does_not_import_torch(checkpoint: Path) -> None:
    code = (
        "import sys; from purekv_cli.models import registry\n"
        f"registry.resolve('7b'); registry.resolve({str(checkpoint)!r}); registry.cached_models()\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
