"""A checkpoint with the released names and config layout loads from a folder, every weight right, and answers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from purekv_cli.errors import ModelUnavailable, OutOfResources, UsageError
from purekv_cli.models import hub, registry
from purekv_cli.models.placement import cpu_has_bfloat16, parameter_bytes
from purekv_cli.video.frames import Frames
from tests.models.conftest import released_weights, write_checkpoint


def clip(count: int = 5, height: int = 56, width: int = 84, seconds: float = 0.5) -> Frames:
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    times = np.arange(count) * seconds
    return Frames(pixels, times, times, seconds, 0.0)


@pytest.mark.parametrize("tied", [False, True])
def test_every_weight_arrives(tmp_path: Path, tied: bool) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", tied)
    adapter = registry.load(registry.resolve(str(folder)), dtype="float32", device="cpu")
    loaded = adapter.model.state_dict()
    source = released_weights(tied)
    names = {"visual.": "model.visual.", "model.": "model.language_model.", "lm_head.": "lm_head."}
    renamed = {}
    for name, weight in source.items():
        old, new = next((old, new) for old, new in names.items() if name.startswith(old))
        renamed[new + name.removeprefix(old)] = weight.float()
    if tied:
        renamed["lm_head.weight"] = renamed["model.language_model.embed_tokens.weight"]
    assert loaded.keys() == renamed.keys()
    assert all(torch.equal(loaded[name], weight) for name, weight in renamed.items())


def test_released_layout_answers(checkpoint: Path) -> None:
    adapter = registry.load(registry.resolve(str(checkpoint)), dtype="float32", device="cpu")
    inputs = adapter.prepare(clip(), "what happens in the video?")
    assert inputs.position_ids.shape == (4, 1, inputs.input_ids.shape[1])
    out = adapter.model.generate(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask,
        max_new_tokens=5,
        eos_token_id=-1,
        **inputs.features,
    )
    assert out.shape[1] == inputs.input_ids.shape[1] + 5
    assert adapter.family == "qwen2_5_vl"
    assert adapter.device == torch.device("cpu")
    assert adapter.stop_ids == {adapter.tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")}
    assert adapter.geometry == registry.resolve(str(checkpoint)).geometry


def test_still_image_bounds_do_not_reach_video(checkpoint: Path) -> None:
    geometry = registry.resolve(str(checkpoint)).geometry
    assert geometry is not None
    assert (geometry.min_pixels, geometry.max_pixels) == (128 * 28 * 28, 768 * 28 * 28)


def test_mrope_section_and_theta_are_read(checkpoint: Path) -> None:
    model = registry.load(registry.resolve(str(checkpoint)), dtype="float32", device="cpu").model
    parameters = model.config.text_config.rope_parameters
    assert parameters["mrope_section"] == [2, 3, 3]
    assert parameters["rope_theta"] == 1e6


def broken(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "broken"))


def test_missing_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = broken(checkpoint, tmp_path)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    (lost,) = {content["weight_map"].pop("model.norm.weight")}
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / lost)
    del weights["model.norm.weight"]
    save_file(weights, folder / lost, metadata={"format": "pt"})
    index.write_text(json.dumps(content))
    with pytest.raises(ModelUnavailable, match=r"lacks 1 weights, such as .*norm\.weight"):
        registry.load(registry.resolve(str(folder)), device="cpu")


def test_truncated_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = broken(checkpoint, tmp_path)
    shard = folder / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(ModelUnavailable, match="could not be loaded"):
        registry.load(registry.resolve(str(folder)), device="cpu")


@pytest.mark.parametrize("content", [b"", b"\x00" * 4, b"\xff" * 64])
def test_garbage_weights_are_refused(checkpoint: Path, tmp_path: Path, content: bytes) -> None:
    folder = broken(checkpoint, tmp_path)
    (folder / "model-00001-of-00002.safetensors").write_bytes(content)
    with pytest.raises(ModelUnavailable, match="could not be loaded"):
        registry.load(registry.resolve(str(folder)), device="cpu")
    with pytest.raises(ModelUnavailable, match="could not be loaded"):  # a plan counts them before anything is loaded
        parameter_bytes(hub.weight_files(folder), torch.float32)


@pytest.mark.parametrize("content", [None, "", "{}", "not json"])
def test_a_damaged_tokenizer_is_refused(checkpoint: Path, tmp_path: Path, content: str | None) -> None:
    file = broken(checkpoint, tmp_path) / "tokenizer.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(ModelUnavailable, match=r"could not be loaded|no chat template|has no token"):
        registry.load(registry.resolve(str(file.parent)), device="cpu")


@pytest.mark.parametrize("change", [{"hidden_size": 128}, {"vocab_size": 7}, {"vision_config": {"depth": "deep"}}])
def test_a_config_that_does_not_fit_its_weights(checkpoint: Path, tmp_path: Path, change: dict[str, object]) -> None:
    config = broken(checkpoint, tmp_path) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ModelUnavailable):
        registry.load(registry.resolve(str(config.parent)), device="cpu")


def test_no_template_for_videos(checkpoint: Path, tmp_path: Path) -> None:
    folder = broken(checkpoint, tmp_path)
    (folder / "chat_template.json").unlink()
    with pytest.raises(ModelUnavailable, match="no chat template"):
        registry.load(registry.resolve(str(folder)), device="cpu")


def test_template_in_a_jinja_file(checkpoint: Path, tmp_path: Path) -> None:
    folder = broken(checkpoint, tmp_path)
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    (folder / "chat_template.json").unlink()
    (folder / "chat_template.jinja").write_text(template)
    one = registry.load(registry.resolve(str(folder)), device="cpu").prepare(clip(), "why?")
    other = registry.load(registry.resolve(str(checkpoint)), device="cpu").prepare(clip(), "why?")
    assert torch.equal(one.input_ids, other.input_ids)


def test_too_little_memory_is_said_before_loading(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purekv_cli.models.placement.free_memory", lambda: 1000)
    with pytest.raises(OutOfResources, match="GiB are free on cpu") as caught:
        registry.load(registry.resolve(str(checkpoint)), dtype="float32", device="cpu")
    assert "--dtype bfloat16" in caught.value.hint


def test_parameters_are_counted_in_the_dtype_asked_for(checkpoint: Path) -> None:
    count = sum(weight.numel() for weight in released_weights().values())
    files = sorted(checkpoint.glob("*.safetensors"))
    assert parameter_bytes(files, torch.float32) == 4 * count
    assert parameter_bytes(files, torch.bfloat16) == 2 * count


@pytest.mark.parametrize(
    ("flags", "known"),
    [
        ("flags\t: fpu avx2 avx512_bf16", True),
        ("flags\t: amx_bf16", True),
        ("Features : fp bf16", True),
        ("flags: avx2", False),
    ],
)
def test_native_bfloat16_is_read_from_the_cpu_flags(tmp_path: Path, flags: str, known: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"model name : bf16 dreams\n{flags}\n")
    assert cpu_has_bfloat16(cpuinfo) is known


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"device": "cpuu"}, UsageError),
        ({"device": "meta"}, UsageError),
        ({"dtype": "bfloat"}, UsageError),
        ({"device": "cuda:99"}, OutOfResources),
        ({"device": "cpu", "device_map": "auto"}, UsageError),
    ],
)
def test_devices_and_dtypes_that_are_not_there(
    checkpoint: Path, settings: dict[str, str], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        registry.load(registry.resolve(str(checkpoint)), **settings)
