"""Every tensor of the golden sets, made with the reference implementation in float32, is met by ours."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL
import pytest
from safetensors.torch import load_file
from torch import Tensor

from purekv_cli.models.videollama2 import golden_adapter
from purekv_cli.models.videollama2.geometry import ConnectorGeometry, connector_padding
from purekv_cli.models.videollama2.golden import Golden
from purekv_cli.video.sample import middles

FOLDER = Path(__file__).parents[2] / "data" / "videollama2"
GOLDEN = json.loads((FOLDER / "golden.json").read_text())
TOLERANCE = GOLDEN["tolerance"]
TALL_IN_ANOTHER_ORDER = int(PIL.__version__.partition(".")[0]) < 13


@pytest.fixture(scope="module", params=sorted(GOLDEN["cases"]))
def case(request: pytest.FixtureRequest) -> tuple[dict[str, Any], Golden, dict[str, Tensor]]:
    facts = GOLDEN["cases"][request.param]
    return facts, golden_adapter(facts, load_file(FOLDER / facts["weights"])), load_file(FOLDER / facts["data"])


Case = tuple[dict[str, Any], Golden, dict[str, Tensor]]


def close(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= TOLERANCE * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("pixel_values", lambda our, clip, large: our.pixel_values(clip)),
        ("pixel_values_large", lambda our, clip, large: our.pixel_values(large)),
        ("pixel_values_large_pad", lambda our, clip, large: our.pixel_values(large, pad=True)),
        ("pixel_values_short", lambda our, clip, large: our.pixel_values(clip[:1], count=2)),
        ("pixel_values_short_pad", lambda our, clip, large: our.pixel_values(clip[:1], count=2, pad=True)),
    ],
)
def test_pixels(case: Case, name: str, make: Callable[..., Tensor]) -> None:
    facts, our, data = case
    frames = data["frames"].numpy()
    if "pad" not in name and not our.squares.crop and "large" not in name and TALL_IN_ANOTHER_ORDER:
        pytest.skip("made with Pillow 13, which squeezes tall frames vertically first: a level or two off before")
    clip = frames[facts["clip_frame_indices"]] if "short" not in name else frames
    close(make(our, clip, data["frames_large"].numpy()), data[name])


def test_tower_connector_embeddings_and_logits(case: Case) -> None:
    facts, our, data = case
    close(our.vision_features(data["pixel_values"]), data["vision_features"])
    close(our.connector_output(data["vision_features"][None]), data["connector_output"])
    close(our.connector_output(data["connector_probe_input"]), data["connector_probe_output"])
    embeds = our.inputs_embeds(data["input_ids"], data["connector_output"])
    close(embeds, data["inputs_embeds"])
    close(our.logits(embeds), data["logits"])
    assert our.greedy_tokens(embeds, len(facts["greedy_tokens"])) == facts["greedy_tokens"]


@pytest.mark.parametrize("row", GOLDEN["frame_indices"], ids=lambda row: f"{row['num_frames']} of {row['total']}")
def test_frames_are_the_middles_of_equal_parts(row: dict[str, Any]) -> None:
    assert middles(row["total"], row["num_frames"]) == row["indices"]


@pytest.mark.parametrize("name", sorted(GOLDEN["cases"]))
def test_the_grid_is_known_before_anything_is_loaded(name: str) -> None:
    facts = GOLDEN["cases"][name]
    side, patch = (facts["vision_config"][key] for key in ("image_size", "patch_size"))
    padding = connector_padding(facts["config"])
    cells = (side // patch + 2 * padding) // 2
    frames = facts["config"]["num_frames"]
    shape = ConnectorGeometry(1, 1, 1, 1, side=side, cells=cells, frames=frames, padding=padding)
    assert list(shape.grid(frames, 48, 68)) == facts["connector_grid_thw"]
    assert shape.grid(1, 48, 68) == shape.grid(frames, 48, 68)  # a picture stands still for a whole clip
